#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/error.h"
#include "io/hdf5_handle.h"

namespace gptq {

/// What to do about a calibration file that is none.
inline constexpr const char* kCalibrationRemedy = "make one with tools/prepare_calibration.py";

/// An open calibration file (docs/calibration-format.md): its attributes and datasets. Private to src/io.
class CalibrationFile {
 public:
  explicit CalibrationFile(const std::string& path);

  std::string text(const char* name) const;
  std::int64_t integer(const char* name) const;
  bool has(const char* name) const;
  /// Throws InputError if it is not there or no integers of this shape.
  Hdf5Handle dataset(const char* name, const std::vector<hsize_t>& shape) const;
  /// Rows [first, first + count) of a dataset of one or two dimensions.
  void read_rows(const Hdf5Handle& data, hsize_t first, hsize_t count, std::int32_t* out) const;

 private:
  template <typename T>
  T check(T result, const char* what) const {
    return hdf5_check(result, what, "calibration file " + path_);
  }

  Hdf5Handle open_attribute(const char* name) const;
  InputError wrong_type(const char* name, const char* expected) const;
  std::string variable_text(const Hdf5Handle& attribute, const Hdf5Handle& type) const;

  std::string path_;
  Hdf5Handle file_;
};

}  // namespace gptq

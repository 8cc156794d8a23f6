#include "io/calibration_file.h"

#include <algorithm>
#include <array>
#include <filesystem>

namespace gptq {

namespace fs = std::filesystem;

CalibrationFile::CalibrationFile(const std::string& path) : path_(path) {
  std::error_code ignored;
  if (!fs::exists(path, ignored))
    throw InputError("calibration file {} does not exist; {}", path, kCalibrationRemedy);
  if (fs::is_directory(path, ignored)) {
    throw InputError("{} is a directory, not a calibration file; {}", path, kCalibrationRemedy);
  }
  if (H5Fis_hdf5(path.c_str()) <= 0) {
    H5Eclear2(H5E_DEFAULT);
    throw InputError("{} is no HDF5 file (or cannot be read, or is damaged); {}", path, kCalibrationRemedy);
  }
  // Such files never change once they have their name; locks only fail on some cluster file systems.
  const Hdf5Handle access(check(H5Pcreate(H5P_FILE_ACCESS), "prepare to open"));
  check(H5Pset_file_locking(access.get(), false, true), "prepare to open");
  file_ = Hdf5Handle(check(H5Fopen(path.c_str(), H5F_ACC_RDONLY, access.get()), "open"));
}

std::string CalibrationFile::text(const char* name) const {
  const Hdf5Handle attribute = open_attribute(name);
  const Hdf5Handle type(check(H5Aget_type(attribute.get()), "read the attributes of"));
  if (H5Tget_class(type.get()) != H5T_STRING) throw wrong_type(name, "a string");
  if (H5Tis_variable_str(type.get()) > 0) return variable_text(attribute, type);
  std::string value(H5Tget_size(type.get()), '\0');
  check(H5Aread(attribute.get(), type.get(), value.data()), "read the attributes of");
  return value.substr(0, value.find('\0'));
}

bool CalibrationFile::has(const char* name) const {
  return H5Lexists(file_.get(), name, H5P_DEFAULT) > 0;
}

std::int64_t CalibrationFile::integer(const char* name) const {
  const Hdf5Handle attribute = open_attribute(name);
  const Hdf5Handle type(check(H5Aget_type(attribute.get()), "read the attributes of"));
  if (H5Tget_class(type.get()) != H5T_INTEGER) throw wrong_type(name, "an integer");
  long long value = 0;
  check(H5Aread(attribute.get(), H5T_NATIVE_LLONG, &value), "read the attributes of");
  return value;
}

Hdf5Handle CalibrationFile::dataset(const char* name, const std::vector<hsize_t>& shape) const {
  if (!has(name)) {
    throw InputError("{} has no dataset /{}; it is no complete calibration file, {}", path_, name,
                     kCalibrationRemedy);
  }
  Hdf5Handle data(check(H5Dopen2(file_.get(), name, H5P_DEFAULT), "open a dataset of"));
  const Hdf5Handle type(check(H5Dget_type(data.get()), "read a dataset of"));
  const Hdf5Handle space(check(H5Dget_space(data.get()), "read a dataset of"));
  std::array<hsize_t, H5S_MAX_RANK> extents{};
  const int rank =
      check(H5Sget_simple_extent_dims(space.get(), extents.data(), nullptr), "read a dataset of");
  const bool same = static_cast<std::size_t>(rank) == shape.size() &&
                    std::equal(shape.begin(), shape.end(), extents.begin());
  if (H5Tget_class(type.get()) != H5T_INTEGER || !same) {
    throw InputError("{}: dataset /{} is not int32 with the shape that nsamples and seqlen tell; {}", path_,
                     name, kCalibrationRemedy);
  }
  return data;
}

void CalibrationFile::read_rows(const Hdf5Handle& data, hsize_t first, hsize_t count,
                                std::int32_t* out) const {
  const Hdf5Handle space(check(H5Dget_space(data.get()), "read a dataset of"));
  std::array<hsize_t, 2> start{first, 0};
  std::array<hsize_t, 2> extent{};
  const int rank = check(H5Sget_simple_extent_dims(space.get(), extent.data(), nullptr), "read a dataset of");
  extent[0] = count;
  check(H5Sselect_hyperslab(space.get(), H5S_SELECT_SET, start.data(), nullptr, extent.data(), nullptr),
        "read a dataset of");
  const Hdf5Handle memory(check(H5Screate_simple(rank, extent.data(), nullptr), "read a dataset of"));
  check(H5Dread(data.get(), H5T_NATIVE_INT32, memory.get(), space.get(), H5P_DEFAULT, out),
        "read a dataset of");
}

Hdf5Handle CalibrationFile::open_attribute(const char* name) const {
  if (check(H5Aexists(file_.get(), name), "read the attributes of") == 0) {
    throw InputError("{} has no attribute '{}'; it is no calibration file, {}", path_, name,
                     kCalibrationRemedy);
  }
  Hdf5Handle attribute(check(H5Aopen(file_.get(), name, H5P_DEFAULT), "read the attributes of"));
  const Hdf5Handle space(check(H5Aget_space(attribute.get()), "read the attributes of"));
  if (H5Sget_simple_extent_npoints(space.get()) != 1) throw wrong_type(name, "a single value");
  return attribute;
}

InputError CalibrationFile::wrong_type(const char* name, const char* expected) const {
  return InputError("{}: attribute '{}' is not {}; {}", path_, name, expected, kCalibrationRemedy);
}

std::string CalibrationFile::variable_text(const Hdf5Handle& attribute, const Hdf5Handle& type) const {
  const Hdf5Handle space(check(H5Aget_space(attribute.get()), "read the attributes of"));
  char* pointer = nullptr;
  check(H5Aread(attribute.get(), type.get(), static_cast<void*>(&pointer)), "read the attributes of");
  const std::string value = pointer == nullptr ? "" : pointer;
  check(H5Dvlen_reclaim(type.get(), space.get(), H5P_DEFAULT, static_cast<void*>(&pointer)),
        "read the attributes of");
  return value;
}

}  // namespace gptq

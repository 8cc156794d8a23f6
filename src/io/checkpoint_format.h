#pragma once

// Private to src/io: names and types of the rank files (docs/checkpoint-format.md).
#include <array>
#include <cstdint>
#include <string>

#include "base/dtype.h"
#include "base/error.h"
#include "io/hdf5_handle.h"

namespace gptq::checkpoint_format {

inline constexpr const char* kFormat = "gptq-hpc-checkpoint-rank";
inline constexpr const char* kViewFormat = "gptq-hpc-checkpoint-view";
inline constexpr std::int64_t kVersion = 1;
/// Data sets with a row for each token.
inline constexpr std::array kActivations = {"hidden", "x", "hidden_before", "reference_hidden",
                                            "reference_x"};
/// With rows for the tokens of the last samples only.
inline constexpr const char* kHeldOutHidden = "held_out_hidden";
inline constexpr const char* kDType = "dtype";  ///< attribute of activations: "BF16" or "F32"

/// What HDF5 calls the bits of a type: bf16 and f16, which it does not know, are 16-bit integers.
inline hid_t hdf5_type(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return H5T_NATIVE_FLOAT;
    case DType::bf16:
    case DType::f16:
      return H5T_NATIVE_UINT16;
    case DType::u8:
      return H5T_NATIVE_UINT8;
    case DType::i32:
      return H5T_NATIVE_INT32;
    case DType::i64:
      return H5T_NATIVE_INT64;
    default:
      throw IoError("checkpoints hold no {}: a defect of this program", name_of(dtype));
  }
}

}  // namespace gptq::checkpoint_format

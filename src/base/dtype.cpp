#include "base/dtype.h"

#include <array>
#include <utility>

#include "base/error.h"

namespace gptq {
namespace {

struct Row {
  DType dtype;
  std::size_t bytes;
  std::string_view name;
};

constexpr std::array<Row, 11> kTypes = {{{DType::f32, 4, "F32"},
                                         {DType::f16, 2, "F16"},
                                         {DType::bf16, 2, "BF16"},
                                         {DType::f64, 8, "F64"},
                                         {DType::i8, 1, "I8"},
                                         {DType::u8, 1, "U8"},
                                         {DType::i16, 2, "I16"},
                                         {DType::i32, 4, "I32"},
                                         {DType::i64, 8, "I64"},
                                         {DType::boolean, 1, "BOOL"},
                                         {DType::f8_e4m3, 1, "F8_E4M3"}}};

const Row& row_of(DType dtype) {
  for (const Row& row : kTypes) {
    if (row.dtype == dtype) return row;
  }
  contract_violation("dtype is in the table", __FILE__, __LINE__);
}

}  // namespace

std::size_t size_of(DType dtype) {
  return row_of(dtype).bytes;
}
std::string_view name_of(DType dtype) {
  return row_of(dtype).name;
}

DType dtype_from_name(std::string_view name) {
  for (const Row& row : kTypes) {
    if (row.name == name) return row.dtype;
  }
  throw InputError(
      "unknown tensor type '{}'; known: F32, F16, BF16, F64, I8, U8, I16, I32, I64, BOOL, F8_E4M3", name);
}

}  // namespace gptq

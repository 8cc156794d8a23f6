#include "kernels/cpu/isa/forward_rows.h"
#include "kernels/cpu/isa/forward_softmax.h"
#include "kernels/cpu/isa/isa.h"

namespace gptq {

namespace isa_v2 {
extern const RowTable row_table;
extern const SoftmaxTable softmax_table;
}  // namespace isa_v2
namespace isa_v3 {
extern const RowTable row_table;
extern const SoftmaxTable softmax_table;
}  // namespace isa_v3
namespace isa_v4 {
extern const RowTable row_table;
extern const SoftmaxTable softmax_table;
}  // namespace isa_v4

const RowTable& row_table() {
  static const RowTable* const tables[] = {&isa_v2::row_table, &isa_v3::row_table, &isa_v4::row_table};
  return *tables[isa_level()];
}

const SoftmaxTable& softmax_table() {
  static const SoftmaxTable* const tables[] = {&isa_v2::softmax_table, &isa_v3::softmax_table,
                                               &isa_v4::softmax_table};
  return *tables[isa_level()];
}

}  // namespace gptq

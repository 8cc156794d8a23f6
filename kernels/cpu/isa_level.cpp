#include <cstdlib>
#include <cstring>

#include "kernels/cpu/isa/isa.h"

namespace gptq {
namespace {

int machine_level() {
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl")) {
    return 2;
  }
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2")
             ? 1
             : 0;
}

int chosen_level() {
  const int best = machine_level();
  const char* wish = std::getenv("GPTQ_HPC_ISA");
  if (wish != nullptr && wish[0] == 'v' && wish[1] >= '2' && wish[1] <= '4' && wish[2] == '\0') {
    const int level = wish[1] - '2';
    return level < best ? level : best;
  }
  return best;
}

}  // namespace

int isa_level() {
  static const int level = chosen_level();
  return level;
}

const char* isa_name() {
  static const char* const names[] = {"x86-64-v2", "x86-64-v3", "x86-64-v4"};
  return names[isa_level()];
}

}  // namespace gptq

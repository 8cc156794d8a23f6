#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"

/// kernel_bench: every kernel of kernels.h on random data, each as a share of what the machine does best.
namespace gptq::bench {

/// What a kernel's time is compared with, measured in the same run: flops or bytes a second.
enum class Limit {
  matrix,    ///< linear() of a large cube in the compute type
  fp32,      ///< the same in f32: what multiply-adds in single precision reach in practice
  memory,    ///< a large copy within the backend's memory; bytes read and written both count
  upload,    ///< pinned host memory to the device
  download,  ///< and back
};
constexpr int kLimits = 5;

struct Limits {
  double per_second[kLimits] = {};  ///< 0: there is no such thing here
  double of(Limit limit) const { return per_second[static_cast<int>(limit)]; }
};

/// So many flops or bytes that must pass one limit.
struct Demand {
  Limit limit;
  double amount;
};
struct Aside {
  std::string what;
  Demand demand;
};

/// What a case does, once.
struct Cost {
  double flops = 0;
  double bytes = 0;
  std::vector<Demand> floor;  ///< the longest of these is the time it could take; none: no share is told
  std::string counted;        ///< in words: what flops and bytes are
  std::vector<Aside> asides;  ///< times told beside it, not part of the floor
};

/// A case with its data in place.
struct Prepared {
  std::function<void()> run;
  std::vector<Matrix> outputs;           ///< poisoned now; finite and not all zero after run()
  std::function<std::string()> problem;  ///< after the first run(): what is wrong with it; empty: nothing
};

struct Case {
  std::string operation;
  std::string shape;
  Cost cost;
  std::function<Prepared()> prepare;
};

/// Sizes of one model, and how much of them is run.
struct Shapes {
  std::string name;
  std::int64_t hidden, intermediate, heads, kv_heads, head_dim, vocab;
  std::int64_t sample_tokens;        ///< tokens of one sample
  std::vector<std::int64_t> tokens;  ///< of a chunk, for linear and Hessian
  std::vector<std::int64_t> widths;  ///< n of the Hessians
  std::int64_t forward_tokens;       ///< for the other forward kernels: 4 samples
  std::int64_t loss_tokens;
  std::int64_t cube;  ///< rows, columns and depth of the products that set the limits
  std::size_t copy_bytes;
  std::int64_t group_size;
};

/// "llama-3-8b", "smollm2" or "tiny" (a rehearsal). quick: one chunk size, the model's own widths.
Shapes find_shapes(const std::string& name, bool quick);

/// What all cases share; they borrow it. Borrows the backend.
struct Bench {
  Backend& backend;
  DType dtype;  ///< compute type
  Shapes shapes;

  Kernels& kernels() const { return backend.kernels(); }
  double size(DType type) const { return static_cast<double>(size_of(type)); }
  double element() const { return size(dtype); }
};

std::vector<Case> forward_cases(const Bench& bench);  ///< kernel_bench_forward.cpp
std::vector<Case> weight_cases(const Bench& bench);   ///< kernel_bench_weights.cpp
std::vector<Case> hessian_cases(const Bench& bench);  ///< kernel_bench_hessian.cpp: factor too
std::vector<Case> solve_cases(const Bench& bench);    ///< kernel_bench_solve.cpp
std::vector<Case> quality_cases(const Bench& bench);  ///< kernel_bench_quality.cpp
std::vector<Case> copy_cases(const Bench& bench);  ///< kernel_bench_copies.cpp; none where memory is shared

}  // namespace gptq::bench

#pragma once

#include <vector>

#include "quant/factor.h"
#include "tools/bench/kernel_bench.h"

namespace gptq::bench {

/// 4 bits in groups of the shapes' size, weighted search.
QuantizationSection options_of(const Bench& bench);

/// H_ii, found by the backend.
std::vector<double> diagonal_of(const Bench& bench, const HessianSum& sum);

/// A sum of one chunk of a few more tokens than columns.
HessianSum filled_sum(const Bench& bench, std::int64_t n);

}  // namespace gptq::bench

#include "kernels/cuda/hessian_view.h"

#include <cmath>
#include <cstring>
#include <vector>

#include "base/error.h"

namespace gptq::cuda {

HessianTables::HessianTables(CudaContext& context, const FactorInput& input) {
  const auto n = static_cast<std::size_t>(input.n);
  GPTQ_EXPECT(input.exponents.size() == n && input.order.size() == n && input.dead.size() == n);
  std::vector<std::byte> host(n * (sizeof(double) + sizeof(int) + 1));
  auto* const unit = reinterpret_cast<double*>(host.data());
  auto* const order = reinterpret_cast<int*>(unit + n);
  for (std::size_t c = 0; c < n; ++c) unit[c] = std::ldexp(1.0, -input.exponents[c]);
  std::memcpy(order, input.order.data(), n * sizeof(int));
  std::memcpy(order + n, input.dead.data(), n);
  memory = context.allocate(host.size());
  context.upload(memory.data(), host.data(), host.size());

  view.sum = input.sum;
  view.unit = memory.as<double>();
  view.order = reinterpret_cast<const int*>(view.unit + n);
  view.dead = reinterpret_cast<const std::uint8_t*>(view.order + n);
  view.scale = input.scale;
  view.damping = input.damping;
  view.n = static_cast<int>(n);
}

}  // namespace gptq::cuda

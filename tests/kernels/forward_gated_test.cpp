#include <cmath>

#include "kernels/forward_fixture.h"

namespace gptq {
namespace {

using reference::Array;

class GatedActivationTest : public ForwardKernels {};

TEST_P(GatedActivationTest, AgreesWithTheReference) {
  for (const auto& [rows, cols] :
       std::vector<std::pair<std::int64_t, std::int64_t>>{{33, 50}, {1, 1}, {2, 1025}}) {
    const HostTensor gate = random(rows, cols, 6, 3.0);
    const HostTensor up = random(rows, cols, 7);
    for (const Activation activation :
         {Activation::silu, Activation::gelu_tanh, Activation::gelu, Activation::relu}) {
      for (const View view : kViews) {
        SCOPED_TRACE(testing::Message() << cols << " columns from " << view.columns_before << ", activation "
                                        << static_cast<int>(activation));
        const TestMatrix out = poisoned(rows, cols, view);
        kernels().gated_activation(activation, on_device(gate, view).matrix(), on_device(up, view).matrix(),
                                   out.matrix());
        expect_close(out, reference::gated_activation(activation, reference::from_matrix(gate.matrix()),
                                                      reference::from_matrix(up.matrix())));
      }
    }
  }
}

TEST_P(GatedActivationTest, HalvesOfOneMatrix) {
  const HostTensor both = random(5, 2 * 40, 10);
  const TestMatrix device = on_device(both);
  const TestMatrix out = poisoned(5, 40);
  kernels().gated_activation(Activation::silu, device.matrix().cols_from(0, 40),
                             device.matrix().cols_from(40, 40), out.matrix());
  expect_close(out, reference::gated_activation(Activation::silu,
                                                reference::from_matrix(both.matrix().cols_from(0, 40)),
                                                reference::from_matrix(both.matrix().cols_from(40, 40))));
}

TEST_P(GatedActivationTest, InPlaceOfEither) {
  for (const std::int64_t cols : {50, 64}) {
    const TestMatrix gate = on_device(random(3, cols, 8));
    const TestMatrix up = on_device(random(3, cols, 9));
    const TestMatrix gate_copy = on_device(gate.download());
    const TestMatrix out = poisoned(3, cols);
    kernels().gated_activation(Activation::silu, gate.matrix(), up.matrix(), out.matrix());
    kernels().gated_activation(Activation::silu, gate.matrix(), up.matrix(), gate.matrix());
    EXPECT_EQ(gate.bytes(), out.bytes());
    kernels().gated_activation(Activation::silu, gate_copy.matrix(), up.matrix(), up.matrix());
    EXPECT_EQ(up.bytes(), out.bytes());
  }
}

TEST_P(GatedActivationTest, ExtremeGates) {
  Array gate(1, 4), ones(1, 4);
  ones.values.assign(4, 1);
  for (const Activation activation : {Activation::silu, Activation::gelu_tanh, Activation::gelu}) {
    const double extreme = activation == Activation::gelu_tanh ? 1e10 : 1e30;  // its cube must be a float
    gate.values = {-200, 200, -extreme, extreme};
    const TestMatrix out = poisoned(1, 4);
    const TestMatrix g(backend(), gate, dtype()), u(backend(), ones, dtype());
    kernels().gated_activation(activation, g.matrix(), u.matrix(), out.matrix());
    const Array got = out.array();
    EXPECT_NEAR(got.at(0, 0), 0, 1e-30);
    EXPECT_NEAR(got.at(0, 1), 200, 1);
    EXPECT_TRUE(std::isfinite(got.at(0, 2)));
    EXPECT_GT(got.at(0, 3), 0.9 * extreme);
  }
}

TEST_P(GatedActivationTest, NaNPassesThrough) {
  Array gate = reference::random_array(2, 3, dtype(), 1), up = reference::random_array(2, 3, dtype(), 2);
  gate.at(0, 1) = NAN;
  up.at(1, 2) = NAN;
  for (const Activation activation : {Activation::silu, Activation::gelu_tanh, Activation::gelu}) {
    const TestMatrix out = poisoned(2, 3);
    const TestMatrix g(backend(), gate, dtype()), u(backend(), up, dtype());
    kernels().gated_activation(activation, g.matrix(), u.matrix(), out.matrix());
    const Array got = out.array();
    for (std::int64_t r = 0; r < 2; ++r)
      for (std::int64_t c = 0; c < 3; ++c)
        EXPECT_EQ(std::isnan(got.at(r, c)), (r == 0 && c == 1) || (r == 1 && c == 2)) << r << ", " << c;
  }
}

TEST_P(GatedActivationTest, OfNoRowsIsNoWork) {
  const TestMatrix none = poisoned(0, 10);
  kernels().gated_activation(Activation::silu, none.matrix(), none.matrix(), none.matrix());
  backend().synchronize();
}

GPTQ_FORWARD_SUITE(GatedActivationTest);

}  // namespace
}  // namespace gptq

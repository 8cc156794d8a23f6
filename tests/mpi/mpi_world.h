#pragma once

#include "comm/communicator.h"

namespace gptq::test {

Communicator& world();  ///< all ranks of this test run

}  // namespace gptq::test

#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "base/tensor.h"
#include "kernels/kernels.h"

namespace gptq {

/// A place that computes: its memory, its kernels, what it is good at. One per rank.
class Backend {
 public:
  virtual ~Backend() = default;

  virtual std::string name() const = 0;      ///< "cpu"; part of what decides the bytes
  virtual std::string describe() const = 0;  ///< "cpu: 2 threads, avx512_core_bf16", for logs and reports
  virtual bool fast_bf16() const = 0;        ///< bf16 products are faster than f32 ones here
  virtual int threads() const = 0;
  virtual Kernels& kernels() = 0;
  /// Working memory of this backend, one buffer a slot (a small number), grown to the largest request and
  /// kept. Its contents are undefined; it is valid until the next request for the same slot.
  virtual void* scratch(int slot, std::size_t bytes) = 0;
};

struct BackendOptions {
  std::string name = "auto";  ///< auto | cpu | cuda
  int threads = 0;  ///< 0: the cores this rank may use, divided among the node's ranks by the caller
};

/// Names this program was built with ("cpu", "cuda"); a name from here may still fail where the device is
/// absent.
std::string built_backends();

/// Throws UsageError for an unknown name and DeviceError where the device is missing.
std::unique_ptr<Backend> make_backend(const BackendOptions& options);

}  // namespace gptq

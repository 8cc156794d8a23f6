// The NCCL plugin (gptq_hpc_nccl.so): collectives in a queue of their own, in order with the kernels' queue.

#include <algorithm>
#include <exception>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "base/error.h"
#include "base/plugin.h"
#include "comm/device_collectives.h"
#include "comm/nccl_check.h"
#include "comm/nccl_link.h"
#include "comm/nccl_plugin.h"

namespace gptq {
namespace {

using nccl::Failure;
using nccl::NcclLink;

/// Starting takes seconds, even on a thousand GPUs; and less than the other ranks' patience.
double start_patience(double timeout) {
  return std::min(300.0, 0.8 * timeout);
}

class NcclCollectives final : public DeviceCollectives {
 public:
  NcclCollectives(Communicator& comm, const NcclPlace& place)
      : comm_(comm),
        link_(
            std::make_shared<NcclLink>(place.device, static_cast<cudaStream_t>(place.queue), place.timeout)),
        exceptions_(std::uncaught_exceptions()) {
    link_->look_after();
  }

  /// An exception on its way may be this rank's alone: the others would not come to a peaceful end.
  ~NcclCollectives() override {
    try {
      link_->end(std::uncaught_exceptions() == exceptions_);
    } catch (...) {  // a mutex that fails; there is nobody to tell
    }
  }

  std::string describe() const override { return "nccl " + nccl::version_text(); }

  void all_reduce_sum(std::int64_t* values, std::size_t count) override {
    put("sum", count * sizeof(std::int64_t), sum_of(values, count));
  }

  void start_sum(std::int64_t* values, std::size_t count) override {
    put("sum", count * sizeof(std::int64_t), sum_of(values, count), /*joined=*/false);
  }

  void join() override {
    check();
    link_->join();
    check();
  }

  bool overlaps() const override { return true; }

  void broadcast(void* data, std::size_t bytes, int root) override {
    put("broadcast", bytes, [=](ncclComm_t comm, cudaStream_t queue) {
      return ncclBroadcast(data, data, bytes, ncclUint8, root, comm, queue);
    });
  }

  void check() override {
    const std::optional<Failure> failure = link_->failure();
    if (!failure) return;
    if (failure->kind == Failure::Kind::device) throw DeviceError("{}", failure->text);
    throw CommError("{}{}", failure->text,
                    failure->kind == Failure::Kind::late ? missing_ranks(*failure) : "");
  }

  void wait() override {
    watched("nccl", [this] { return link_->working(); });
  }

  /// As wait(), but gives up earlier, since all ranks are known to be here.
  void wait_for_start(const char* what, double patience,
                      const std::function<std::optional<double>()>& waiting) {
    const Stopwatch waited;
    watched(what, [&]() -> std::optional<double> {
      const std::optional<double> seconds = waiting();
      if (!seconds || waited.seconds() < patience) return seconds;
      link_->fail(
          Failure::Kind::communication,
          fmt::format("NCCL did not finish its {} in {:.0f} s. NCCL_DEBUG=INFO makes it say what it waits "
                      "for; where a node has several networks, NCCL_SOCKET_IFNAME names the one to use",
                      what, patience));
      return std::nullopt;
    });
  }

  NcclLink& link() { return *link_; }

 private:
  static NcclLink::Call sum_of(std::int64_t* values, std::size_t count) {
    return [=](ncclComm_t comm, cudaStream_t queue) {
      return ncclAllReduce(values, values, count, ncclInt64, ncclSum, comm, queue);
    };
  }

  /// joined: the kernels after it wait for it.
  void put(const char* name, std::size_t bytes, const NcclLink::Call& call, bool joined = true) {
    check();
    if (bytes == 0) return;
    const NcclLink::CallerLooks looks(*link_);
    link_->put(name, bytes, joined, call);
    watched(name, [this] { return link_->entering(); });
  }

  /// Waits so that other ranks' questions are answered and those that hang are named; throws what failed.
  void watched(const char* name, const std::function<std::optional<double>()>& waiting) {
    const NcclLink::CallerLooks looks(*link_);
    try {
      comm_.wait_outside(name, waiting);
    } catch (const std::exception& error) {
      link_->fail(Failure::Kind::communication, error.what());
    }
    check();
  }

  /// Asks which ranks hang; once, because the others end soon after.
  std::string missing_ranks(const Failure& failure) {
    if (std::exchange(asked_, true)) return "";
    const Stopwatch asking;
    try {
      comm_.wait_outside("nccl, late", [&]() -> std::optional<double> {
        // By the clock on the wall, those of the watch by what the process ran: hence twice.
        if (asking.seconds() > 2 * comm_.seconds_to_name()) return std::nullopt;
        return failure.seconds + asking.seconds();
      });
    } catch (const std::exception& error) {
      return fmt::format("; {}", error.what());
    }
    return "";
  }

  Communicator& comm_;
  std::shared_ptr<NcclLink> link_;
  int exceptions_;
  bool asked_ = false;
};

/// What `action` threw, or nothing.
template <typename Action>
std::string problem_of(Action&& action) {
  try {
    action();
    return {};
  } catch (const std::exception& error) {
    return error.what();
  }
}

std::string problem_of(cudaError_t status, const char* doing) {
  return status == cudaSuccess ? std::string() : nccl::problem_text(status, doing);
}

ncclUniqueId common_id(Communicator& comm) {
  ncclUniqueId id{};
  std::string problem;
  if (comm.is_root()) {
    const ncclResult_t result = ncclGetUniqueId(&id);
    if (nccl::failed(result)) problem = nccl::problem_text(result, "looking for a network", nullptr);
  }
  agree(comm, problem);
  comm.broadcast(&id, sizeof(id), 0);
  return id;
}

/// A number on the device, used in the order of the queue.
class DeviceNumber {
 public:
  explicit DeviceNumber(void* queue) : queue_(static_cast<cudaStream_t>(queue)) {}
  ~DeviceNumber() { cudaFree(data_); }
  DeviceNumber(const DeviceNumber&) = delete;
  DeviceNumber& operator=(const DeviceNumber&) = delete;

  std::string put(std::int64_t value) {
    const std::string problem =
        problem_of(cudaMalloc(&data_, sizeof(value)), "allocating memory for NCCL's first sum");
    return problem.empty() ? copy(data_, &value, cudaMemcpyHostToDevice) : problem;
  }
  std::string get(std::int64_t& value) const { return copy(&value, data_, cudaMemcpyDeviceToHost); }
  std::int64_t* data() const { return static_cast<std::int64_t*>(data_); }

 private:
  std::string copy(void* to, const void* from, cudaMemcpyKind kind) const {
    cudaError_t status = cudaMemcpyAsync(to, from, sizeof(std::int64_t), kind, queue_);
    if (status == cudaSuccess) status = cudaStreamSynchronize(queue_);
    return problem_of(status, "copying NCCL's first sum");
  }

  cudaStream_t queue_;
  void* data_ = nullptr;
};

/// The first sum makes the connections; better now than after an hour.
void prove(NcclCollectives& collectives, Communicator& comm, const NcclPlace& place) {
  const double patience = start_patience(place.timeout);
  DeviceNumber number(place.queue);
  agree(comm, number.put(comm.rank() + 1));
  agree(comm, problem_of([&] {
          collectives.all_reduce_sum(number.data(), 1);
          collectives.wait_for_start("first sum", patience, [&] { return collectives.link().working(); });
        }));
  std::int64_t sum = 0;
  std::string problem = number.get(sum);
  const std::int64_t expected = std::int64_t{comm.size()} * (comm.size() + 1) / 2;
  if (problem.empty() && sum != expected) {
    problem = fmt::format("NCCL {} is broken: its first sum is {} instead of {}", nccl::version_text(), sum,
                          expected);
  }
  agree(comm, problem);
}

std::unique_ptr<NcclCollectives> start(Communicator& comm, const NcclPlace& place) {
  std::unique_ptr<NcclCollectives> collectives;
  agree(comm, problem_of([&] {
          const std::string problem = problem_of(cudaSetDevice(place.device), "looking for NCCL's device");
          if (!problem.empty()) throw DeviceError("{}", problem);
          collectives = std::make_unique<NcclCollectives>(comm, place);
        }));
  const ncclUniqueId id = common_id(comm);
  const double patience = start_patience(place.timeout);
  agree(comm, problem_of([&] {
          collectives->link().start(comm.size(), comm.rank(), id);
          collectives->wait_for_start("start", patience, [&] { return collectives->link().starting(); });
        }));
  prove(*collectives, comm, place);
  return collectives;
}

}  // namespace
}  // namespace gptq

extern "C" const char* gptq_hpc_plugin_identity() {
  return gptq::plugin_identity();
}

extern "C" gptq::DeviceCollectives* gptq_hpc_nccl_collectives(gptq::Communicator& comm,
                                                              const gptq::NcclPlace& place) {
  return gptq::start(comm, place).release();
}

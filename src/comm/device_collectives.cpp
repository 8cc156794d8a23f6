#include "comm/device_collectives.h"

#include <algorithm>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/plugin.h"
#include "comm/nccl_plugin.h"

namespace gptq {
namespace {

class HostCollectives final : public DeviceCollectives {
 public:
  explicit HostCollectives(Communicator& comm) : comm_(comm) {}

  std::string describe() const override { return "mpi in host memory"; }
  void all_reduce_sum(std::int64_t* values, std::size_t count) override {
    comm_.all_reduce_sum(std::span(values, count));
  }
  void broadcast(void* data, std::size_t bytes, int root) override { comm_.broadcast(data, bytes, root); }

 private:
  Communicator& comm_;
};

class StagedCollectives final : public DeviceCollectives {
 public:
  StagedCollectives(Communicator& comm, DeviceCopies copies, std::size_t piece)
      : comm_(comm), copies_(std::move(copies)), piece_(piece) {
    GPTQ_EXPECT(piece > 0 && piece % sizeof(std::int64_t) == 0);
  }

  std::string describe() const override { return "mpi through host memory"; }

  void all_reduce_sum(std::int64_t* values, std::size_t count) override {
    in_pieces(values, count * sizeof(std::int64_t),
              [&](std::byte* host, std::byte* device, std::size_t bytes) {
                copies_.download(host, device, bytes);
                comm_.all_reduce_sum(
                    std::span(reinterpret_cast<std::int64_t*>(host), bytes / sizeof(std::int64_t)));
                copies_.upload(device, host, bytes);
              });
  }

  void broadcast(void* data, std::size_t bytes, int root) override {
    in_pieces(data, bytes, [&](std::byte* host, std::byte* device, std::size_t part) {
      if (comm_.rank() == root) copies_.download(host, device, part);
      comm_.broadcast(host, part, root);
      if (comm_.rank() != root) copies_.upload(device, host, part);
    });
  }

 private:
  template <typename Move>
  void in_pieces(void* data, std::size_t bytes, Move&& move) {
    if (comm_.size() == 1 || bytes == 0) return;
    std::byte* host = staging(std::min(bytes, piece_));
    for (std::size_t first = 0; first < bytes; first += piece_) {
      move(host, static_cast<std::byte*>(data) + first, std::min(piece_, bytes - first));
    }
  }

  /// Grown to the largest request, never beyond a piece.
  std::byte* staging(std::size_t bytes) {
    if (staging_.size() < bytes) {
      staging_ = {};
      staging_ = copies_.allocate_host ? copies_.allocate_host(bytes) : ordinary_memory(bytes);
    }
    return staging_.data();
  }

  static DeviceBuffer ordinary_memory(std::size_t bytes) {
    return {new std::byte[bytes], bytes, nullptr, [](void*, std::byte* data, std::size_t) { delete[] data; }};
  }

  Communicator& comm_;
  DeviceCopies copies_;
  std::size_t piece_;
  DeviceBuffer staging_;
};

}  // namespace

std::unique_ptr<DeviceCollectives> make_host_collectives(Communicator& comm) {
  return std::make_unique<HostCollectives>(comm);
}

std::unique_ptr<DeviceCollectives> make_staged_collectives(Communicator& comm, DeviceCopies copies,
                                                           std::size_t piece) {
  return std::make_unique<StagedCollectives>(comm, std::move(copies), piece);
}

bool every_rank_has_its_own_device(Communicator& comm, const std::string& device_id) {
  std::set<std::vector<std::byte>> seen;
  bool own = true;
  for (auto& id : comm.all_gather(std::as_bytes(std::span(device_id)))) {
    own = own && !id.empty() && seen.insert(std::move(id)).second;
  }
  return own;
}

std::unique_ptr<DeviceCollectives> make_nccl_collectives(Communicator& comm, const NcclPlace& place) {
  const Plugin plugin = load_plugin(kNcclPluginFile, kNcclPluginVariable, kNcclPluginEntry);
  agree(comm, plugin.entry != nullptr
                  ? ""
                  : fmt::format("NCCL cannot be used: {} {}", plugin.path, plugin.problem));
  const auto make = reinterpret_cast<NcclPluginEntry>(plugin.entry);
  return std::unique_ptr<DeviceCollectives>(make(comm, place));
}

}  // namespace gptq

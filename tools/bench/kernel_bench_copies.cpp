#include <cstring>

#include "base/error.h"
#include "tools/bench/kernel_bench_data.h"

/// Copies between host and device, from pinned and from ordinary memory.
namespace gptq::bench {
namespace {

enum class Host { pinned, pageable };
enum class Way {
  call,  ///< upload() and download()
  queue  ///< copy_in_queue(), from pinned memory
};

struct Data {
  DeviceBuffer device;
  DeviceBuffer pinned;
  HostBuffer pageable;
  std::byte* host;
};

std::shared_ptr<Data> make_data(const Bench& bench, Host where) {
  const std::size_t bytes = bench.shapes.copy_bytes;
  const auto floats = static_cast<std::int64_t>(bytes / 4);
  auto data = std::make_shared<Data>();
  data->device = random_matrix(bench, DType::f32, 1, floats).buffer;
  data->pinned = random_host_matrix(bench, DType::f32, 1, floats, 2).buffer;
  data->host = data->pinned.data();
  if (where == Host::pageable) {
    data->pageable = HostBuffer(bytes);
    std::memcpy(data->pageable.data(), data->pinned.data(), bytes);
    data->host = data->pageable.data();
    data->pinned = DeviceBuffer();
  }
  return data;
}

std::string difference(const Bench& bench, const Data& data) {
  std::vector<std::byte> copy(bench.shapes.copy_bytes);
  bench.backend.download(copy.data(), data.device.data(), copy.size());
  return std::memcmp(copy.data(), data.host, copy.size()) == 0 ? "" : "the copy differs";
}

Case copying(const Bench& bench, bool up, Host where, Way way) {
  const auto bytes = static_cast<double>(bench.shapes.copy_bytes);
  const std::string shape =
      fmt::format("{} MiB {}{}", bench.shapes.copy_bytes >> 20, where == Host::pinned ? "pinned" : "pageable",
                  way == Way::queue ? ", in a queue" : "");
  return {up ? "upload" : "download",
          shape,
          {0, bytes, {{up ? Limit::upload : Limit::download, bytes}}, "bytes copied", {}},
          [&bench, up, where, way] {
            auto data = make_data(bench, where);
            Prepared prepared;
            prepared.run = [&bench, up, way, data] {
              Backend& backend = bench.backend;
              std::byte* const device = data->device.data();
              const std::size_t size = bench.shapes.copy_bytes;
              if (way == Way::queue && up) backend.copy_in_queue(Queue::load, device, data->host, size);
              if (way == Way::queue && !up) backend.copy_in_queue(Queue::store, data->host, device, size);
              if (way == Way::call && up) backend.upload(device, data->host, size);
              if (way == Way::call && !up) backend.download(data->host, device, size);
            };
            prepared.problem = [&bench, data] { return difference(bench, *data); };
            return prepared;
          }};
}

}  // namespace

std::vector<Case> copy_cases(const Bench& bench) {
  if (bench.backend.shares_host_memory()) return {};
  std::vector<Case> cases;
  for (const bool up : {true, false}) {
    cases.push_back(copying(bench, up, Host::pinned, Way::queue));
    cases.push_back(copying(bench, up, Host::pinned, Way::call));
    cases.push_back(copying(bench, up, Host::pageable, Way::call));
  }
  return cases;
}

}  // namespace gptq::bench

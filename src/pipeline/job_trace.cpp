#include "pipeline/job_trace.h"

#include "base/file.h"
#include "base/process.h"
#include "io/trace_file.h"

namespace gptq {
namespace {

std::string text_of(const std::vector<std::byte>& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace

double clock_ahead_of_root(Communicator& comm) {
  const std::string host = host_name();
  const auto hosts = comm.all_gather(std::as_bytes(std::span(host)));
  comm.barrier();
  const double now = trace_clock();
  double root = now;
  comm.broadcast(&root, sizeof(root), 0);
  return text_of(hosts[0]) == host ? 0 : now - root;
}

void write_trace(const std::string& path, const Trace& trace, double clock_ahead, Communicator& comm) {
  const std::string mine = to_json(RankTrace{host_name(), clock_ahead, trace.events()});
  const auto everyone = comm.all_gather(std::as_bytes(std::span(mine)));
  run_on_root(comm, [&] {
    std::vector<RankTrace> ranks;
    for (const auto& bytes : everyone) ranks.push_back(rank_trace_from_json(text_of(bytes)));
    write_file(path, chrome_trace(ranks));
  });
}

}  // namespace gptq

#include <array>

#include "base/process.h"
#include "comm/communicator.h"

namespace gptq {
namespace {

/// What all ranks of `comm` know of; `speaker` is one of them.
[[noreturn]] void throw_together(const Communicator& comm, int speaker, ExitCode code,
                                 const std::string& message) {
  if (comm.covers_world()) throw CollectiveError(code, message);
  if (comm.rank() == speaker) throw Error(code, message);
  throw TeamError(code, message);
}

}  // namespace

void run_on(Communicator& comm, int root, const std::function<void()>& action) {
  std::string message;
  std::array<std::int64_t, 2> outcome{0, 0};  // exit code, length of the message
  if (comm.rank() == root) {
    try {
      action();
    } catch (const Error& error) {
      outcome[0] = static_cast<std::int64_t>(error.exit_code());
      // A device is one rank's own: whoever reads this must know which node to look at.
      message = error.exit_code() == ExitCode::device
                    ? fmt::format("rank {} on {}: {}", comm.world_rank(root), host_name(), error.what())
                    : error.what();
    } catch (const std::exception& error) {
      outcome[0] = static_cast<std::int64_t>(ExitCode::internal);
      message = error.what();
    }
    outcome[1] = static_cast<std::int64_t>(message.size());
  }
  comm.broadcast(outcome.data(), sizeof(outcome), root);
  if (outcome[0] == 0) return;
  message.resize(static_cast<std::size_t>(outcome[1]));
  comm.broadcast(message.data(), message.size(), root);
  throw_together(comm, root, static_cast<ExitCode>(outcome[0]), message);
}

void run_on_root(Communicator& comm, const std::function<void()>& action) {
  run_on(comm, 0, action);
}

namespace {

/// Of the first rank that has one; no rank, if nobody has.
struct Problem {
  int rank = -1;
  std::string text;
};

Problem first_of(Communicator& comm, const std::string& problem) {
  const auto problems = comm.all_gather(std::as_bytes(std::span(problem)));
  for (std::size_t i = 0; i < problems.size(); ++i) {
    if (problems[i].empty()) continue;
    const int rank = static_cast<int>(i);
    const std::string text(reinterpret_cast<const char*>(problems[i].data()), problems[i].size());
    return {rank, fmt::format("rank {}: {}", comm.world_rank(rank), text)};
  }
  return {};
}

}  // namespace

std::string first_problem(Communicator& comm, const std::string& problem) {
  return first_of(comm, problem).text;
}

void fail_together(Communicator& comm, const std::string& problem) {
  const Problem first = first_of(comm, problem);
  if (first.rank >= 0) throw_together(comm, first.rank, ExitCode::communication, first.text);
}

}  // namespace gptq

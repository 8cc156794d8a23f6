#include <array>

#include "comm/communicator.h"

namespace gptq {

void run_on_root(Communicator& comm, const std::function<void()>& action) {
  std::string message;
  std::array<std::int64_t, 2> outcome{0, 0};  // exit code, length of the message
  if (comm.is_root()) {
    try {
      action();
    } catch (const Error& error) {
      outcome[0] = static_cast<std::int64_t>(error.exit_code());
      message = error.what();
    } catch (const std::exception& error) {
      outcome[0] = static_cast<std::int64_t>(ExitCode::internal);
      message = error.what();
    }
    outcome[1] = static_cast<std::int64_t>(message.size());
  }
  comm.broadcast(outcome.data(), sizeof(outcome), 0);
  if (outcome[0] == 0) return;
  message.resize(static_cast<std::size_t>(outcome[1]));
  comm.broadcast(message.data(), message.size(), 0);
  throw CollectiveError(static_cast<ExitCode>(outcome[0]), message);
}

}  // namespace gptq

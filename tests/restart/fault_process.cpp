#include "restart/fault_process.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <new>
#include <regex>
#include <stdexcept>
#include <thread>

namespace gptq::test {
namespace {

using Clock = std::chrono::steady_clock;

std::string content(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

FaultPage* make_page(const std::string& file) {
  const int descriptor = open(file.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (descriptor < 0 || ftruncate(descriptor, sizeof(FaultPage)) != 0) {
    throw std::runtime_error("cannot make " + file);
  }
  void* memory = mmap(nullptr, sizeof(FaultPage), PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  close(descriptor);
  if (memory == MAP_FAILED) throw std::runtime_error("cannot map " + file);
  return new (memory) FaultPage;
}

std::vector<std::string> command_line(const Programs& programs, const std::vector<std::string>& arguments,
                                      int ranks, const Fault& fault, const std::string& page) {
  std::vector<std::string> command{"env", "OMPI_ALLOW_RUN_AS_ROOT=1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1",
                                   "OMP_NUM_THREADS=1"};
  if (ranks > 1) {
    const std::vector<std::string> launch{
        programs.mpiexec, "--oversubscribe", "--bind-to", "none", "-n", std::to_string(ranks), "env"};
    command.insert(command.end(), launch.begin(), launch.end());
  }
  const auto set = [&](const char* variable, const std::string& value) {
    command.push_back(std::string(variable) + "=" + value);
  };
  set("LD_PRELOAD", programs.shim);
  set(kFaultPage, page);
  set(kFaultBelow, fault.below.string());
  set(kFaultNot, fault.except.string());
  set(kFaultRank, std::to_string(fault.rank));
  set(kFaultKindVariable, std::to_string(static_cast<int>(fault.kind)));
  set(kFaultModeVariable, std::to_string(static_cast<int>(fault.mode)));
  set(kFaultCall, std::to_string(fault.call));
  command.push_back(programs.program);
  command.insert(command.end(), arguments.begin(), arguments.end());
  return command;
}

/// In the child: a process group of its own, output to the log. Never returns.
[[noreturn]] void become(const std::vector<std::string>& command, const std::string& log) {
  setpgid(0, 0);
  const int input = open("/dev/null", O_RDONLY);
  const int output = open(log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  dup2(input, STDIN_FILENO);
  dup2(output, STDOUT_FILENO);
  dup2(output, STDERR_FILENO);
  std::vector<char*> arguments;
  for (const std::string& word : command) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  execvp(arguments[0], arguments.data());
  _exit(127);
}

/// The last generation that the log names after these words; 0: none.
long last_generation(const std::string& log, const std::string& words) {
  long last = 0;
  const std::regex pattern(words + R"( generation (\d+): block)");
  for (std::sregex_iterator match(log.begin(), log.end(), pattern), end; match != end; ++match) {
    last = std::stol((*match)[1].str());
  }
  return last;
}

void sleep_a_little() {
  std::this_thread::sleep_for(std::chrono::milliseconds(2));
}

}  // namespace

JobProcess::JobProcess(const Programs& programs, const std::vector<std::string>& arguments, int ranks,
                       const Fault& fault, const std::filesystem::path& scratch)
    : ranks_(ranks),
      page_file_((scratch / "page").string()),
      log_file_((scratch / "log").string()),
      page_(make_page(page_file_)),
      start_(Clock::now()) {
  const std::vector<std::string> command = command_line(programs, arguments, ranks, fault, page_file_);
  main_ = fork();
  if (main_ < 0) throw std::runtime_error("cannot start another process");
  if (main_ == 0) become(command, log_file_);
}

JobProcess::~JobProcess() {
  if (!ended_) {
    kill_everything();
    wait();
  }
  munmap(page_, sizeof(FaultPage));
}

bool JobProcess::running() {
  if (!ended_ && waitpid(main_, &status_, WNOHANG) == main_) ended_ = true;
  return !ended_;
}

void JobProcess::wait_for_start() {
  const auto all_started = [&] {
    for (int rank = 0; rank < ranks_; ++rank) {
      if (page_->ranks[static_cast<std::size_t>(rank)].process == 0) return false;
    }
    return true;
  };
  while (running() && !all_started()) sleep_a_little();
}

/// A number may have been given to another process meanwhile: ours carries the page's name in its
/// environment.
bool JobProcess::is_ours(pid_t process) const {
  return process > 0 &&
         content("/proc/" + std::to_string(process) + "/environ").find("=" + page_file_) != std::string::npos;
}

void JobProcess::signal_rank(int rank, int signal) {
  const pid_t process = page_->ranks[static_cast<std::size_t>(rank)].process;
  if (is_ours(process)) kill(process, signal);
}

void JobProcess::kill_everything() {
  for (int rank = 0; rank < ranks_; ++rank) signal_rank(rank, SIGKILL);
  if (!ended_) kill(-main_, SIGKILL);
}

Attempt JobProcess::wait(std::chrono::seconds limit) {
  Attempt attempt;
  while (running() && !attempt.hung) {
    sleep_a_little();
    if (Clock::now() - start_ < limit) continue;
    attempt.hung = true;
    kill_everything();
  }
  while (running()) sleep_a_little();
  kill_everything();  // ranks that outlived their mpirun
  while (waitpid(-1, nullptr, 0) > 0) {
  }  // and their ends
  attempt.exit_code = WIFEXITED(status_) ? WEXITSTATUS(status_) : 128 + WTERMSIG(status_);
  attempt.output = content(log_file_);
  attempt.committed = last_generation(attempt.output, "checkpoint");
  attempt.taken_up = last_generation(attempt.output, "resuming from");
  attempt.fired = page_->fired != 0;
  attempt.where = page_->where.data();
  attempt.seconds = std::chrono::duration<double>(Clock::now() - start_).count();
  return attempt;
}

void adopt_orphans() {
  if (prctl(PR_SET_CHILD_SUBREAPER, 1) != 0) throw std::runtime_error("cannot become the reaper of orphans");
}

}  // namespace gptq::test

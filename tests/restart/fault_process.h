#pragma once

#include <sys/types.h>

#include <chrono>
#include <filesystem>
#include <string>
#include <vector>

#include "restart/fault_page.h"

namespace gptq::test {

/// One blow: the `call`-th call of this kind by this rank, on files below one directory.
struct Fault {
  FaultKind kind = FaultKind::write;
  FaultMode mode = FaultMode::none;
  int rank = 0;
  std::uint64_t call = 0;
  std::filesystem::path below;
  std::filesystem::path except;  ///< files in this directory do not count
};

struct Programs {
  std::string program;  ///< gptq-hpc
  std::string shim;     ///< the fault library
  std::string mpiexec = "mpirun";
};

/// How a run of the job ended.
struct Attempt {
  int exit_code = 0;  ///< 128 + signal if it was killed
  bool hung = false;  ///< ended by the driver for taking too long
  std::string output;
  bool fired = false;
  std::string where;  ///< the call that was struck
  double seconds = 0;

  long committed = 0;  ///< newest generation that the job, in this attempt, said was complete; 0: none
  long taken_up = 0;   ///< generation that it went on from; 0: none

  bool says(const std::string& text) const { return output.find(text) != std::string::npos; }
};

/// A job under the fault library. Make one, wait for it, or kill it meanwhile.
class JobProcess {
 public:
  /// Starts gptq-hpc with these arguments on so many ranks (one: without mpirun). scratch: a directory for
  /// the page of counts and the log.
  JobProcess(const Programs& programs, const std::vector<std::string>& arguments, int ranks,
             const Fault& fault, const std::filesystem::path& scratch);
  ~JobProcess();
  JobProcess(const JobProcess&) = delete;
  JobProcess& operator=(const JobProcess&) = delete;

  const FaultPage& page() const { return *page_; }
  /// Waits until every rank runs its main program or the job has ended.
  void wait_for_start();
  bool running();
  void signal_rank(int rank, int signal);
  void kill_everything();  ///< all ranks and mpirun
  Attempt wait(std::chrono::seconds limit = std::chrono::seconds(90));

 private:
  bool is_ours(pid_t process) const;

  int ranks_;
  std::string page_file_;
  std::string log_file_;
  FaultPage* page_ = nullptr;
  pid_t main_ = -1;
  int status_ = 0;
  bool ended_ = false;
  std::chrono::steady_clock::time_point start_;
};

/// Orphans of a killed mpirun come to this process and are reaped here, whatever the container's init does.
/// Once, at the start of the driver.
void adopt_orphans();

}  // namespace gptq::test

#include "restart/fault_plan.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace gptq::test {
namespace {

long number(const char* variable) {
  const char* text = std::getenv(variable);
  return text == nullptr ? 0 : std::strtol(text, nullptr, 10);
}

std::string directory(const char* variable) {
  const char* text = std::getenv(variable);
  return text == nullptr || *text == '\0' ? std::string() : std::string(text) + "/";
}

/// Read from the environment before main; the same for the whole life of the process.
struct Plan {
  FaultPage* page = nullptr;
  FaultPage::Rank* mine = nullptr;
  bool chosen = false;  ///< this rank is the one to be struck
  FaultKind kind{};
  FaultMode mode{};
  std::uint64_t call = 0;
  std::string below;
  std::string except;

  Plan() {
    const char* file = std::getenv(kFaultPage);
    const long rank = number("OMPI_COMM_WORLD_RANK");
    if (file == nullptr || rank < 0 || rank >= kFaultRanks) return;
    const long descriptor = syscall(SYS_openat, AT_FDCWD, file, O_RDWR | O_CLOEXEC, 0);
    if (descriptor < 0) give_up("cannot open the page of counts");
    void* memory =
        mmap(nullptr, sizeof(FaultPage), PROT_READ | PROT_WRITE, MAP_SHARED, static_cast<int>(descriptor), 0);
    syscall(SYS_close, descriptor);
    if (memory == MAP_FAILED) give_up("cannot map the page of counts");
    page = static_cast<FaultPage*>(memory);
    mine = &page->ranks[static_cast<std::size_t>(rank)];
    chosen = rank == number(kFaultRank);
    kind = static_cast<FaultKind>(number(kFaultKindVariable));
    mode = static_cast<FaultMode>(number(kFaultModeVariable));
    call = static_cast<std::uint64_t>(number(kFaultCall));
    below = directory(kFaultBelow);
    except = directory(kFaultNot);
    mine->process = static_cast<std::int32_t>(getpid());
  }

  [[noreturn]] static void give_up(const char* message) {
    std::fprintf(stderr, "fault library: %s\n", message);
    std::_Exit(99);
  }

  bool watches(const std::string& path) const {
    if (path.empty()) return true;
    const std::string with_end = path + "/";  // the directory itself is watched as well
    return with_end.starts_with(below) && (except.empty() || !with_end.starts_with(except));
  }
};

const Plan& plan() {
  static const Plan the_plan;
  return the_plan;
}

/// Makes the plan before main, so that the driver learns the process as early as can be.
[[maybe_unused]] const bool planned = plan().page != nullptr;

std::atomic<bool> disk_full{false};

bool needs_room(FaultKind kind) {
  return kind == FaultKind::write || kind == FaultKind::claim || kind == FaultKind::open;
}

void record(const Plan& the_plan, const char* name, const std::string& path) {
  std::snprintf(the_plan.page->where.data(), the_plan.page->where.size(), "%s%s%s", name,
                path.empty() ? "" : " of ", path.c_str());
  the_plan.page->fired = 1;
}

}  // namespace

FaultMode fault_at(FaultKind kind, const char* name, const std::string& path) {
  const Plan& the_plan = plan();
  if (the_plan.mine == nullptr || (kind != FaultKind::mpi && path.empty()) || !the_plan.watches(path)) {
    return FaultMode::none;
  }
  const std::uint64_t call = the_plan.mine->calls[static_cast<std::size_t>(kind)].fetch_add(1) + 1;
  if (!the_plan.chosen || the_plan.mode == FaultMode::none) return FaultMode::none;
  if (disk_full && needs_room(kind)) return FaultMode::enospc;
  if (kind != the_plan.kind || call != the_plan.call) return FaultMode::none;
  record(the_plan, name, path);
  if (the_plan.mode != FaultMode::full) return the_plan.mode;
  disk_full = true;
  return FaultMode::enospc;
}

void die_now() {
  if (plan().mode == FaultMode::power) unsynced::lose();
  syscall(SYS_kill, getpid(), SIGKILL);
  hang_forever();
}

void hang_forever() {
  for (;;) pause();
}

std::string path_of(int descriptor) {
  char link[64];
  char target[PATH_MAX];
  std::snprintf(link, sizeof(link), "/proc/self/fd/%d", descriptor);
  const ssize_t length = readlink(link, target, sizeof(target));
  if (length <= 0 || target[0] != '/') return {};
  return {target, static_cast<std::size_t>(length)};
}

std::string path_of(int directory, const char* relative) {
  if (relative == nullptr) return {};
  if (*relative == '/') return relative;
  if (directory != AT_FDCWD) return path_of(directory) + "/" + relative;
  char here[PATH_MAX];
  return getcwd(here, sizeof(here)) == nullptr ? std::string() : std::string(here) + "/" + relative;
}

}  // namespace gptq::test

// A power failure keeps only what was synced. SIGKILL alone does not show a missing fsync, since the kernel
// still writes what it was given; so the library keeps its own account and destroys what was not promised to
// be on disk.
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "restart/fault_plan.h"

namespace gptq::test::unsynced {
namespace {

struct Range {
  std::int64_t first;
  std::int64_t bytes;
};

struct Account {
  std::mutex mutex;
  bool kept = false;
  std::map<std::string, std::vector<Range>> written;         ///< file → what was not synced
  std::vector<std::pair<std::string, std::string>> renames;  ///< whose directory was not synced, oldest first

  Account() {
    const char* mode = std::getenv(kFaultModeVariable);
    kept = mode != nullptr && std::atoi(mode) == static_cast<int>(FaultMode::power);
  }
};

/// Never destroyed: other libraries' destructors may still write.
Account& account() {
  static Account& the_account = *new Account;
  return the_account;
}

std::string parent(const std::string& path) {
  return path.substr(0, path.rfind('/'));
}

/// By raw system calls: this is no write of the job's.
void blank(const std::string& path, const std::vector<Range>& ranges) {
  const long descriptor = syscall(SYS_openat, AT_FDCWD, path.c_str(), O_WRONLY, 0);
  if (descriptor < 0) return;
  static constexpr std::array<char, 4096> kZeros{};
  for (const Range& range : ranges) {
    for (std::int64_t done = 0; done < range.bytes;) {
      const auto count = std::min<std::int64_t>(range.bytes - done, kZeros.size());
      if (syscall(SYS_pwrite64, descriptor, kZeros.data(), count, range.first + done) <= 0) break;
      done += count;
    }
  }
  syscall(SYS_close, descriptor);
}

}  // namespace

void wrote(const std::string& path, std::int64_t first, std::int64_t bytes) {
  Account& a = account();
  if (!a.kept || path.empty()) return;
  const std::lock_guard lock(a.mutex);
  a.written[path].push_back({first, bytes});
}

void synced(const std::string& path) {
  Account& a = account();
  if (!a.kept) return;
  const std::lock_guard lock(a.mutex);
  a.written.erase(path);
  std::erase_if(a.renames, [&](const auto& names) { return parent(names.second) == path; });
}

void renamed(const std::string& from, const std::string& to, bool replaced) {
  Account& a = account();
  if (!a.kept) return;
  const std::lock_guard lock(a.mutex);
  a.written.erase(to);
  if (auto node = a.written.extract(from)) {
    node.key() = to;
    a.written.insert(std::move(node));
  }
  // Of a file that was replaced either version may be found; the new one is left.
  if (!replaced) a.renames.emplace_back(from, to);
}

void lose() {
  Account& a = account();
  const std::lock_guard lock(a.mutex);
  for (const auto& [path, ranges] : a.written) blank(path, ranges);
  for (auto names = a.renames.rbegin(); names != a.renames.rend(); ++names) {
    syscall(SYS_renameat2, AT_FDCWD, names->second.c_str(), AT_FDCWD, names->first.c_str(), 0);
  }
}

}  // namespace gptq::test::unsynced

#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace gptq {

/// How fast work of one size is done. Between two points the rate is interpolated in the logarithms of both.
struct RatePoint {
  double work = 0;  ///< FLOP or bytes of one call, as the kernel's row in kernel_names() says
  double rate = 0;  ///< of them a second
};

/// Between ranks of one class.
struct LinkRates {
  double latency = 0;    ///< seconds of an empty message
  double bandwidth = 0;  ///< bytes/s of one rank to another
  double shared = 0;     ///< bytes/s that all ranks of a node together give, and take as many; >= bandwidth
  /// Bytes/s of an all-reduce's ring, adding included: 2(R-1)/R · bytes / seconds. 0: as the bandwidth.
  double reduce = 0;
};

/// bytes/s.
struct FileRates {
  double open = 0;  ///< seconds
  double node = 0;  ///< a node reads from the file system
  double all = 0;   ///< all nodes together
  double write_node = 0;
  double write_all = 0;
  double cached = 0;  ///< a rank reads what its node has read already
};

/// Machines that a job is planned for, as configs/machines/NAME.yaml describes them; they need not be there.
/// `plan --measure` writes the description of the present one.
struct Machine {
  std::string name;
  struct Node {
    int ranks = 1;  ///< places for ranks: one a device, or one a core or more on a CPU
    int cores = 1;
    std::int64_t memory = 0;  ///< bytes of the host
  } node;
  struct Device {
    std::string kind = "cpu";
    std::int64_t memory = 0;       ///< bytes; 0: ranks compute on the host's cores
    std::int64_t driver = 0;       ///< bytes of it that a process cannot have
    std::int64_t collectives = 0;  ///< bytes of it that NCCL takes
    double copy = 0;               ///< bytes/s between the host's memory and its own; 0: not known
  } device;
  std::map<std::string, std::vector<RatePoint>> kernels;  ///< of one core, or one device; ascending
  std::vector<double> together{
      1};                  ///< rate of each rank when 1, 2, ... ranks of a node compute; the last goes on
  LinkRates link, fabric;  ///< inside a node; between nodes
  FileRates files;
  double startup = 0;  ///< seconds from mpirun to the first work

  struct Measured {
    std::string by, version, date;
  };
  std::optional<Measured> measured;  ///< none: the description comes from elsewhere, as `source` says
  std::string source;                ///< where the figures come from

  bool is_cpu() const { return device.memory == 0; }
  /// "measured by gptq-hpc 0.1.0 on 2026-01-01", or "NOT measured: " and the source.
  std::string provenance() const;
  /// Seconds of one call of the kernel on one core, or one device. Throws UsageError for a rate that is
  /// missing.
  double seconds(const std::string& kernel, double work) const;
  /// What each of so many computing ranks of a node keeps of its rate.
  double share_together(int ranks) const;
};

/// A kernel that descriptions know, and the unit of its work.
struct KernelName {
  const char* name;
  const char* unit;  ///< "FLOP" or "bytes"
  const char* meaning;
};
const std::vector<KernelName>& kernel_names();

/// Reads a description strictly: one UsageError with every mistake, its line, and the nearest valid key.
/// Quantities have units (24 GB, 2 us, 6 GB/s).
Machine read_machine(const std::string& path);
/// A path, or the name of a description in configs/machines below the current directory or beside the
/// program. Throws UsageError that lists the names there are.
std::string find_machine(const std::string& file_or_name);
/// As YAML that read_machine takes.
std::string to_yaml(const Machine& machine);

/// "6 GB/s" → 6e9. Units: B, kB, MB, GB, TB, KiB … TiB; the same "/s"; s, ms, us, ns. Nothing if it is none,
/// or not of this dimension ("bytes", "bytes/s", "s").
std::optional<double> parse_quantity(const std::string& text, const std::string& dimension);

}  // namespace gptq

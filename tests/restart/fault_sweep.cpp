// Interrupts a small job in every way there is and lets it go on: each history must end in the same bytes.
// What each part does stands in docs/reliability.md. Prints a table; exit code 1 if anything was not
// survived.
//
//     fault_sweep PROGRAM FAULT_LIBRARY [--full] [--only points|hangs|kills|damage|disks] [--seed N]
//
// GPTQ_HPC_FULL_SWEEP=1 in the environment is --full.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <functional>
#include <stdexcept>

#include "base/clock.h"
#include "restart/fault_bench.h"

namespace {

using namespace gptq::test;

FaultOptions options_of(const std::vector<std::string>& words) {
  FaultOptions options;
  if (words.size() < 2) throw std::runtime_error("usage: fault_sweep PROGRAM FAULT_LIBRARY [options]");
  options.programs.program = words[0];
  options.programs.shim = words[1];
  const char* full = std::getenv("GPTQ_HPC_FULL_SWEEP");
  options.full = full != nullptr && std::strcmp(full, "1") == 0;
  for (std::size_t i = 2; i < words.size(); ++i) {
    const bool has_value = i + 1 < words.size();
    if (words[i] == "--full") {
      options.full = true;
    } else if (words[i] == "--only" && has_value) {
      options.only = words[++i];
    } else if (words[i] == "--seed" && has_value) {
      options.seed = std::stoull(words[++i]);
    } else {
      throw std::runtime_error("unknown option " + words[i]);
    }
  }
  return options;
}

struct Part {
  const char* name;
  void (*run)(FaultBench&);
};

constexpr Part kParts[] = {{"points", strike_points},
                           {"hangs", hang_ranks},
                           {"kills", kill_at_random},
                           {"damage", damage_checkpoints},
                           {"disks", fill_disks}};

int sweep(const FaultOptions& options) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);  // a sweep that is cut short has still told what it found
  adopt_orphans();
  FaultBench bench(options);
  bool any = false;
  for (const Part& part : kParts) {
    if (!options.only.empty() && options.only != part.name) continue;
    any = true;
    const gptq::Stopwatch watch;
    part.run(bench);
    std::printf("%s: %.0f s\n", part.name, watch.seconds());
    std::fflush(stdout);
  }
  if (!any) throw std::runtime_error("there is no part '" + options.only + "'");
  bench.print_table();
  return bench.good() ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return sweep(options_of({argv + 1, argv + argc}));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "fault_sweep: %s\n", error.what());
    return 1;
  }
}

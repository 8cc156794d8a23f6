#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace gptq::test {

struct ProgramResult {
  int exit_code = 0;
  std::string output;  ///< stdout and stderr together
};

/// Runs gptq-hpc with these arguments, under mpirun for ranks > 1 (ranks == 1: directly), with
/// OMP_NUM_THREADS=threads. A run beyond two minutes is ended and counts as exit code 124.
ProgramResult run_program(const std::vector<std::string>& arguments, int ranks = 1, int threads = 1);

/// name → SHA-256 over dtype, shape and data of every tensor in the directory's safetensors files.
std::vector<std::pair<std::string, std::string>> tensor_hashes(const std::filesystem::path& model_directory);

}  // namespace gptq::test

#include "support/run_program.h"

#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <memory>

#include "base/error.h"
#include "base/sha256.h"
#include "model/safetensors_reader.h"
#include "support/places.h"

namespace gptq::test {
namespace {

std::string quoted(const std::string& text) {
  std::string result = "'";
  for (char c : text) result += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return result + "'";
}

}  // namespace

ProgramResult run_program(const std::vector<std::string>& arguments, int ranks, int threads) {
  std::string command = fmt::format("OMP_NUM_THREADS={} timeout -k 5 120 ", threads);
  if (ranks > 1) {
    command += fmt::format(
        "env OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 mpirun --oversubscribe --bind-to none "
        "-n {} ",
        ranks);
  }
  command += quoted(program());
  for (const std::string& argument : arguments) command += " " + quoted(argument);
  command += " 2>&1 < /dev/null";
  FILE* pipe = popen(command.c_str(), "r");
  GPTQ_EXPECT(pipe != nullptr);
  ProgramResult result;
  std::array<char, 4096> buffer{};
  while (const std::size_t count = fread(buffer.data(), 1, buffer.size(), pipe))
    result.output.append(buffer.data(), count);
  const int status = pclose(pipe);
  result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128;
  return result;
}

std::vector<std::pair<std::string, std::string>> tensor_hashes(const std::filesystem::path& model_directory) {
  const SafetensorsReader reader(model_directory);
  std::vector<std::pair<std::string, std::string>> hashes;
  for (const auto& [name, info] : reader.tensors()) {
    const HostTensor tensor = reader.read(name);
    Sha256 hash;
    std::string header(name_of(tensor.dtype));
    for (std::int64_t extent : tensor.shape) header += fmt::format(" {}", extent);
    hash.update(header.data(), header.size());
    hash.update(tensor.storage.data(), tensor.storage.size());
    hashes.emplace_back(name, hash.hex());
  }
  return hashes;
}

}  // namespace gptq::test

#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <string>
#include <vector>

#include "support/run_program.h"
#include "support/temp_directory.h"
#include "support/tiny_model.h"

namespace gptq::test {

/// A small random model, calibration and evaluation data, and a job file over them, in a directory of their
/// own.
class JobTest : public testing::Test {
 protected:
  void SetUp() override {
    TinyModelOptions options;
    write_tiny_model(path("model"), options);
    write_calibration(path("calibration.h5"), 6, 48, options.vocab, 1, /*ragged=*/true);
    write_calibration(path("eval.h5"), 4, 64, options.vocab, 2, /*ragged=*/false);
    write_job("");
  }

  std::string path(const std::string& name) const { return (directory_.path() / name).string(); }
  std::string job() const { return path("job.yaml"); }

  void write_job(const std::string& quantization_lines) {
    std::ofstream(job()) << "model: {path: " << path("model") << "}\n"
                         << "calibration: {path: " << path("calibration.h5") << ", chunk_tokens: 100}\n"
                         << "quantization:\n  bits: 4\n  group_size: 32\n"
                         << quantization_lines << "output: {path: " << path("output") << "}\n"
                         << "eval: {data: [" << path("eval.h5") << "]}\n";
  }

  ProgramResult quantize(const std::vector<std::string>& more = {}, int ranks = 1, int threads = 1) {
    std::vector<std::string> arguments{"quantize", job()};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run_program(arguments, ranks, threads);
  }

  /// Quantizes into directory `name` and returns the hashes of its tensors.
  std::vector<std::pair<std::string, std::string>> hashes_of_run(const std::string& name, int ranks,
                                                                 int threads,
                                                                 std::vector<std::string> more = {}) {
    more.insert(more.end(), {"--set", "output.path=" + path(name)});
    const ProgramResult result = quantize(more, ranks, threads);
    EXPECT_EQ(result.exit_code, 0) << result.output;
    return result.exit_code == 0 ? tensor_hashes(path(name))
                                 : std::vector<std::pair<std::string, std::string>>{};
  }

  TempDirectory directory_;
};

}  // namespace gptq::test

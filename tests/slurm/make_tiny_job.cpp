// Writes a random model, its calibration file and a job file, for tests that start the program from a shell:
//   make_tiny_job DIRECTORY LAYERS SAMPLES
// The same arguments give the same bytes. The job's output is DIRECTORY/output.

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <string>

#include "support/tiny_model.h"

namespace {

void write_job(const std::filesystem::path& directory) {
  std::ofstream file(directory / "job.yaml");
  file << "model: {path: " << directory / "model"
       << "}\n"
       << "calibration: {path: " << directory / "calibration.h5"
       << ", chunk_tokens: 512}\n"
       << "quantization: {bits: 4, group_size: 64}\n"
       << "output: {path: " << directory / "output"
       << "}\n"
       << "eval: {data: [" << directory / "eval.h5"
       << "]}\n"
       << "compute: {threads: 1}\n";
  file.close();
  if (!file) throw std::runtime_error("cannot write " + (directory / "job.yaml").string());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: make_tiny_job DIRECTORY LAYERS SAMPLES\n");
    return 2;
  }
  try {
    const std::filesystem::path directory = std::filesystem::absolute(argv[1]);
    gptq::test::TinyModelOptions options;
    options.hidden = 256;
    options.heads = 8;
    options.kv_heads = 4;
    options.intermediate = 512;
    options.layers = std::stoll(argv[2]);
    gptq::test::write_tiny_model(directory / "model", options);
    gptq::test::write_calibration(directory / "calibration.h5", std::stoll(argv[3]), 256, options.vocab, 1,
                                  true);
    gptq::test::write_calibration(directory / "eval.h5", 4, 128, options.vocab, 2);
    write_job(directory);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "make_tiny_job: %s\n", error.what());
    return 1;
  }
  return 0;
}

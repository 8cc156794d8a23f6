// Whole jobs on sources in fp8: the same bytes as from the same model decoded beforehand (by torch).

#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "io/safetensors_writer.h"
#include "model/safetensors_reader.h"
#include "model/source_tensors.h"
#include "model/weights.h"
#include "resume_fixture.h"

namespace gptq::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

class Fp8Job : public Resume {
 protected:
  void SetUp() override { fs::create_directories(path("model")); }

  /// The fixture as `model`, and as `twin` the same with torch's decoded weights and no quantization_config.
  void use(const std::string& fixture) {
    for (const auto& entry : fs::directory_iterator(fixtures() / fixture)) {
      if (entry.path().filename() != "expected.safetensors")
        fs::copy_file(entry.path(), path("model") / entry.path().filename());
    }
    fs::create_directories(path("expected"));
    fs::copy_file(fixtures() / fixture / "expected.safetensors", path("expected") + "/model.safetensors");
    const SafetensorsReader expected(path("expected")), source(path("model"));
    std::map<std::string, HostTensor> tensors;
    for (const auto& [name, info] : source.tensors()) {
      const std::string decoded = "decoded." + name;
      if (expected.contains(decoded)) tensors.emplace(name, expected.read(decoded));
      if (info.dtype != DType::f8_e4m3 && !name.ends_with("scale") && !name.ends_with("_scale_inv"))
        tensors.emplace(name, source.read(name));
    }
    write_twin(tensors);
    write_inputs();
  }

  /// tensors as the model `twin`.
  void write_twin(const std::map<std::string, HostTensor>& tensors) {
    fs::create_directories(path("twin"));
    std::vector<std::pair<std::string, TensorInfo>> infos;
    for (const auto& [name, tensor] : tensors)
      infos.push_back({name, {tensor.dtype, tensor.shape, "", 0, 0}});
    SafetensorsWriter writer(path("twin") + "/model.safetensors", infos);
    for (const auto& [name, tensor] : tensors) writer.write(name, tensor);
    writer.finish();
    auto config = nlohmann::ordered_json::parse(read_text_file(path("model") + "/config.json"));
    config.erase("quantization_config");
    std::ofstream(path("twin") + "/config.json") << config.dump(2) << "\n";
  }

  void write_inputs() {
    for (const char* model : {"model", "twin"})
      std::ofstream(path(model) + "/tokenizer.json") << R"({"version": "1.0", "model": {"type": "dummy"}})";
    write_calibration(path("calibration.h5"), 8, 24, 80, 1, /*ragged=*/true);
    write_calibration(path("eval.h5"), 4, 30, 80, 2, /*ragged=*/false);
    std::ofstream(job()) << "model: {path: " << path("model") << "}\n"
                         << "calibration: {path: " << path("calibration.h5") << ", chunk_tokens: 40}\n"
                         << "quantization: {bits: 4, group_size: 16}\n"
                         << "output: {path: " << path("output") << "}\n"
                         << "eval: {data: [" << path("eval.h5") << "]}\n";
  }

  std::vector<std::string> of_twin(std::vector<std::string> more) const {
    more.insert(more.end(), {"--set", "model.path=" + path("twin")});
    return more;
  }

  std::string text(const std::string& name) const { return read_text_file(path(name)); }

  double loss(const std::string& model) {
    const std::string json = path("eval.json");
    const ProgramResult result = run_program({"eval", job(), "--model", path(model), "--json", json});
    EXPECT_EQ(result.exit_code, 0) << result.output;
    return nlohmann::json::parse(std::ifstream(json)).at("perplexity").get<double>();
  }
};

struct Fp8Case {
  const char* fixture;
  const char* name;
  std::vector<std::string> set;
};

void PrintTo(const Fp8Case& test, std::ostream* out) {
  *out << test.fixture << " " << test.name;
}

class Fp8SameBytes : public Fp8Job, public testing::WithParamInterface<Fp8Case> {};

TEST_P(Fp8SameBytes, AsFromTheDecodedTwin) {
  use(GetParam().fixture);
  const auto expected = hashes_of_run("from_twin", 1, 1, of_twin(GetParam().set));
  ASSERT_FALSE(expected.empty());
  EXPECT_EQ(hashes_of_run("from_fp8", 1, 1, GetParam().set), expected);
  EXPECT_EQ(hashes_of_run("from_fp8_on_two", 2, 1, GetParam().set), expected);
  EXPECT_EQ(text("from_fp8/config.json"), text("from_twin/config.json"));
  const SafetensorsReader output(path("from_fp8"));
  for (const auto& [name, info] : output.tensors()) {
    EXPECT_NE(info.dtype, DType::f8_e4m3) << name;
    EXPECT_THAT(name, Not(HasSubstr("_scale")));
  }
  const ProgramResult verified = run_program({"verify", path("from_fp8")});
  EXPECT_EQ(verified.exit_code, 0) << verified.output;
}

INSTANTIATE_TEST_SUITE_P(
    Sources, Fp8SameBytes,
    testing::Values(
        Fp8Case{"fp8_blocks", "default", {}},
        Fp8Case{"fp8_blocks", "fp32", {"--set", "compute.dtype=fp32", "--set", "calibration.held_out=0.2"}},
        Fp8Case{"fp8_blocks", "one_block", {"--set", "quantization.num_layers=1"}},
        Fp8Case{"fp8_blocks", "head", {"--set", "quantization.lm_head=true"}},
        Fp8Case{"fp8_blocks", "rotated", {"--set", "quantization.rotation=hadamard"}},
        Fp8Case{"fp8_rows", "default", {}},
        Fp8Case{"fp8_rows", "one_block", {"--set", "quantization.num_layers=1"}},
        Fp8Case{"fp8_rows",
                "ordinary",
                {"--set", "output.format=dequantized", "--set", "quantization.num_layers=1"}}),
    [](const auto& test) { return std::string(test.param.fixture) + "_" + test.param.name; });

// With powers of two as scales every product is a bf16: then the type of the twin does not matter either.
TEST_F(Fp8Job, ATwinInF32GivesTheSameCodes) {
  use("fp8_blocks");
  std::map<std::string, HostTensor> stored, wide;
  {
    const SafetensorsReader source(path("model"));
    for (const auto& [name, info] : source.tensors()) {
      HostTensor tensor = source.read(name);
      if (name.ends_with("_scale_inv")) {
        auto* const scales = reinterpret_cast<float*>(tensor.storage.data());
        for (std::int64_t i = 0; i < tensor.elements(); ++i)
          scales[i] = std::exp2(std::round(std::log2(scales[i])));
      }
      stored.emplace(name, std::move(tensor));
    }
  }
  for (const auto& entry : fs::directory_iterator(path("model"))) {
    if (entry.path().filename().string().starts_with("model")) fs::remove(entry.path());
  }
  std::vector<std::pair<std::string, TensorInfo>> infos;
  for (const auto& [name, tensor] : stored) infos.push_back({name, {tensor.dtype, tensor.shape, "", 0, 0}});
  SafetensorsWriter writer(path("model") + "/model.safetensors", infos);
  for (const auto& [name, tensor] : stored) writer.write(name, tensor);
  writer.finish();

  const ModelWeights model(path("model"));
  for (const auto& [name, info] : model.tensors().all()) {
    HostTensor tensor = model.tensors().read(name);
    wide.emplace(name, model.tensors().is_decoded(name) ? convert(tensor, DType::f32) : std::move(tensor));
  }
  fs::remove_all(path("twin"));
  write_twin(wide);
  write_inputs();
  const auto expected = hashes_of_run("from_twin", 1, 1, of_twin({}));
  ASSERT_FALSE(expected.empty());
  EXPECT_EQ(hashes_of_run("from_fp8", 2, 1), expected);
}

TEST_F(Fp8Job, GoesOnAfterAnInterruption) {
  use("fp8_rows");
  const auto expected = hashes_of_run("undisturbed", 1, 1);
  ASSERT_EQ(interrupt(6, SIGKILL), 128 + SIGKILL);
  const ProgramResult resumed = quantize({}, 2);
  ASSERT_EQ(resumed.exit_code, 0) << resumed.output;
  EXPECT_THAT(resumed.output, HasSubstr("resuming from generation"));
  EXPECT_EQ(tensor_hashes(path("output")), expected);
}

TEST_F(Fp8Job, EvalInspectPlanAndVerifyKnowTheSource) {
  use("fp8_blocks");
  EXPECT_EQ(loss("model"), loss("twin"));

  const ProgramResult inspected = run_program({"inspect", path("model")});
  EXPECT_EQ(inspected.exit_code, 0) << inspected.output;
  EXPECT_THAT(inspected.output, AllOf(HasSubstr("F8_E4M3"), HasSubstr("fp8 (E4M3), fp8; read as BF16"),
                                      HasSubstr("scales of 24 x 20: 12 weights")));
  const auto parameters = [](const std::string& page) {
    const std::size_t line = page.find("parameters");
    return page.substr(line, page.find('\n', line) - line);
  };
  EXPECT_EQ(parameters(inspected.output), parameters(run_program({"inspect", path("twin")}).output));

  const ProgramResult planned = run_program({"plan", job()});
  EXPECT_EQ(planned.exit_code, 0) << planned.output;

  const ProgramResult verified = run_program({"verify", path("model")});
  EXPECT_NE(verified.exit_code, 0);
  EXPECT_THAT(verified.output, AllOf(HasSubstr("stored in fp8"), HasSubstr("source")));
}

TEST_F(Fp8Job, UnknownFormsAreRefusedBeforeAnythingIsWritten) {
  use("fp8_blocks");
  const std::string file = path("model") + "/config.json";
  auto config = nlohmann::ordered_json::parse(read_text_file(file));
  config["quantization_config"]["fmt"] = "e5m2";
  std::ofstream(file) << config.dump(2);
  const ProgramResult result = quantize();
  EXPECT_EQ(result.exit_code, static_cast<int>(ExitCode::bad_input)) << result.output;
  EXPECT_THAT(result.output, AllOf(HasSubstr("quantization_config.fmt"), HasSubstr("e5m2")));
  EXPECT_FALSE(fs::exists(path("output")));
}

}  // namespace
}  // namespace gptq::test

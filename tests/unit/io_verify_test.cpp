#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "io/verify.h"
#include "unit/io_export_fixture.h"

namespace gptq::test {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
namespace fs = std::filesystem;

class VerifyTest : public ExportTest {
 protected:
  void SetUp() override {
    make_source();
    export_all();
    ASSERT_THAT(failures(), IsEmpty());
  }
  std::vector<std::string> failures() const { return verify_output(job_.output.path).failures; }

  HostTensor read(const std::string& name) const { return SafetensorsReader(job_.output.path).read(name); }

  void edit_json(const std::string& name, const std::function<void(nlohmann::json&)>& change) {
    nlohmann::json text = nlohmann::json::parse(read_text_file(output(name)));
    change(text);
    write_file(output(name), text.dump());
  }
  static constexpr const char* kModule = "model.layers.1.self_attn.k_proj";
};

TEST_F(VerifyTest, FlippedByte) {
  std::fstream file(output("model.safetensors"), std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(-5, std::ios::end);
  const char byte = static_cast<char>(file.peek() ^ 1);
  file.seekp(-5, std::ios::end);
  file.put(byte);
  file.close();
  EXPECT_THAT(failures(), Contains(AllOf(HasSubstr("model.safetensors"), HasSubstr("SHA-256"))));
}

TEST_F(VerifyTest, MissingFile) {
  fs::remove(output("tokenizer.json"));
  EXPECT_THAT(failures(), Contains(HasSubstr("tokenizer.json is missing")));
}

TEST_F(VerifyTest, TruncatedFile) {
  fs::resize_file(output("model.safetensors"), fs::file_size(output("model.safetensors")) - 10);
  EXPECT_THAT(failures(), AllOf(Contains(HasSubstr("but the manifest says")),
                                Contains(HasSubstr("10 bytes are missing"))));
}

TEST_F(VerifyTest, NoManifest) {
  fs::remove(output("manifest.json"));
  EXPECT_THAT(failures(), Contains(HasSubstr("no manifest.json")));
}

TEST_F(VerifyTest, LeftoverOfAnInterruptedJob) {
  std::ofstream(output("model.safetensors.partial")) << "x";
  EXPECT_THAT(failures(), Contains(HasSubstr("interrupted")));
}

TEST_F(VerifyTest, ExtraWeightsFile) {
  fs::copy_file(output("model.safetensors"), output("old.safetensors"));
  EXPECT_THAT(failures(), Contains(HasSubstr("old.safetensors is not in the manifest")));
}

TEST_F(VerifyTest, WrongGroupIndex) {
  HostTensor g_idx = read(std::string(kModule) + ".g_idx");
  auto* values = reinterpret_cast<std::int32_t*>(g_idx.storage.data());
  std::swap(values[0], values[63]);
  rewrite({{std::string(kModule) + ".g_idx", &g_idx}});
  EXPECT_THAT(failures(),
              Contains(AllOf(HasSubstr(kModule), HasSubstr("g_idx: column 0 is in group 1 instead of 0"))));
}

TEST_F(VerifyTest, GroupIndexOutOfRangeIsNotFollowed) {
  HostTensor g_idx = read(std::string(kModule) + ".g_idx");
  reinterpret_cast<std::int32_t*>(g_idx.storage.data())[5] = 1 << 30;
  rewrite({{std::string(kModule) + ".g_idx", &g_idx}});
  EXPECT_THAT(failures(), Contains(HasSubstr("column 5 is in group 1073741824")));
}

TEST_F(VerifyTest, StrayIntegerTensor) {
  HostTensor stray = make_tensor(DType::i32, {2});
  std::fill_n(stray.storage.data(), stray.storage.size(), std::byte{0});
  rewrite({{"lm_head.g_idx", &stray}});
  EXPECT_THAT(failures(), Contains(HasSubstr("'lm_head.g_idx' is written although config.json ties it")));
}

TEST_F(VerifyTest, WeightBesideItsCodes) {
  HostTensor weight = SafetensorsReader(job_.model.path).read(std::string(kModule) + ".weight");
  rewrite({{std::string(kModule) + ".weight", &weight}});
  EXPECT_THAT(failures(), Contains(HasSubstr("lies beside")));
}

TEST_F(VerifyTest, TiedHeadWritten) {
  HostTensor head = read("model.embed_tokens.weight");
  rewrite({{"lm_head.weight", &head}});
  EXPECT_THAT(failures(), Contains(HasSubstr("ties it to the embedding")));
}

TEST_F(VerifyTest, MissingTensor) {
  rewrite({{"model.norm.weight", nullptr}});
  EXPECT_THAT(failures(), Contains(HasSubstr("'model.norm.weight' is missing")));
}

TEST_F(VerifyTest, OneOfThreeFusedModulesUnquantized) {
  HostTensor weight = SafetensorsReader(job_.model.path).read(std::string(kModule) + ".weight");
  const std::string module = kModule;
  rewrite({{module + ".weight", &weight},
           {module + ".qweight", nullptr},
           {module + ".qzeros", nullptr},
           {module + ".scales", nullptr},
           {module + ".g_idx", nullptr}});
  EXPECT_THAT(failures(),
              AllOf(Contains(HasSubstr("need all or none")), Contains(HasSubstr("no rule of 'dynamic'"))));
}

TEST_F(VerifyTest, NanScale) {
  HostTensor scales = read(std::string(kModule) + ".scales");
  reinterpret_cast<std::uint16_t*>(scales.storage.data())[3] = 0x7e00;
  rewrite({{std::string(kModule) + ".scales", &scales}});
  EXPECT_THAT(failures(), Contains(HasSubstr("scales holds NaN")));
}

TEST_F(VerifyTest, WrongTypeOfScales) {
  HostTensor scales = convert(read(std::string(kModule) + ".scales"), DType::f32);
  rewrite({{std::string(kModule) + ".scales", &scales}});
  EXPECT_THAT(failures(), Contains(AllOf(HasSubstr("scales' is F32"), HasSubstr("must be F16"))));
}

TEST_F(VerifyTest, AsymmetricZerosInASymmetricModel) {
  HostTensor zeros = read(std::string(kModule) + ".qzeros");
  reinterpret_cast<std::uint32_t*>(zeros.storage.data())[0] ^= 1;
  rewrite({{std::string(kModule) + ".qzeros", &zeros}});
  EXPECT_THAT(failures(), Contains(HasSubstr("the zero 8 everywhere")));
}

TEST_F(VerifyTest, BitsThatDoNotFitTheTensors) {
  edit_json("config.json", [](auto& config) { config["quantization_config"]["bits"] = 8; });
  EXPECT_THAT(failures(), AllOf(Contains(HasSubstr("differ")), Contains(HasSubstr("qweight' is I32"))));
}

TEST_F(VerifyTest, NoQuantizationConfig) {
  edit_json("config.json", [](auto& config) { config.erase("quantization_config"); });
  EXPECT_THAT(failures(), Contains(HasSubstr("no quantization_config")));
}

TEST_F(VerifyTest, RuleThatSkipsAQuantizedModule) {
  const auto add = [](nlohmann::json& q) { q["dynamic"]["-:.*down_proj"] = nlohmann::json::object(); };
  edit_json("config.json", [&](auto& config) { add(config["quantization_config"]); });
  edit_json("quantize_config.json", add);
  EXPECT_THAT(failures(), Contains(HasSubstr("a rule of 'dynamic' says that it is not")));
}

TEST_F(VerifyTest, NotesForLoaders) {
  const VerifyResult result = verify_output(job_.output.path);
  EXPECT_THAT(result.notes,
              Contains(AllOf(HasSubstr("Marlin"), HasSubstr("out_features not divisible by 64"))));
  EXPECT_THAT(result.notes, Contains(HasSubstr("tensor parallelism")));
}

TEST_F(VerifyTest, ShardMissingFromTheIndex) {
  job_.output.path = (root_ / "sharded").string();
  job_.output.max_shard_bytes = 1;
  export_all();
  edit_json("model.safetensors.index.json",
            [](auto& index) { index["weight_map"].erase("model.layers.0.mlp.up_proj.scales"); });
  EXPECT_THAT(failures(), Contains(HasSubstr("'model.layers.0.mlp.up_proj.scales' of")));
}

TEST(Verify, NoDirectory) {
  const TempDirectory directory;
  EXPECT_THROW(verify_output(directory / "nowhere"), InputError);
  EXPECT_FALSE(verify_output(directory.path()).failures.empty());
}

TEST_F(VerifyTest, WrappedZerosAreNoted) {
  job_.output.path = (root_ / "asymmetric").string();
  job_.quantization.sym = false;
  const ModelWeights model(job_.model.path);
  const Recipe recipe(job_.quantization);
  Exporter exporter(job_, model, recipe, "abc");
  for (std::int64_t block = 0; block < 2; ++block) {
    std::vector<QuantizedLayer> layers;
    for (const LinearShape& shape : model.layout(block).layers()) {
      layers.push_back(
          pattern_layer(block_prefix(model.architecture(), block) + shape.name, shape, recipe.section()));
      layers.back().zeros[0] = 0;
    }
    exporter.write_block(block, model.load_block(block), layers);
  }
  exporter.finish();
  const VerifyResult result = verify_output(job_.output.path);
  EXPECT_THAT(result.failures, IsEmpty());
  EXPECT_THAT(result.notes, Contains(AllOf(HasSubstr("14 zeros are 0"), HasSubstr("gptq_v2"))));
}

TEST_F(VerifyTest, NotesWhatGptqModelDoesNotTake) {
  const auto notes_of = [&](const char* format, bool sym, int bits) {
    job_.quantization.sym = sym;
    job_.quantization.bits = bits;
    job_.output.checkpoint_format = format;
    job_.output.path = (root_ / fmt::format("{}-{}-{}", format, sym, bits)).string();
    export_all();
    return verify_output(job_.output.path).notes;
  };
  const auto refused = Contains(HasSubstr("GPTQModel does not take: sym: false in checkpoint_format gptq"));
  const auto planes = Contains(HasSubstr("gptq_p is read by GPTQModel"));
  EXPECT_THAT(notes_of("gptq", false, 4), AllOf(refused, Not(planes)));
  EXPECT_THAT(notes_of("gptq", true, 4), AllOf(Not(refused), Not(planes)));
  EXPECT_THAT(notes_of("gptq_v2", false, 4), AllOf(Not(refused), Not(planes)));
  EXPECT_THAT(notes_of("gptq_p", false, 5), AllOf(Not(refused), planes));
}

TEST_F(VerifyTest, InspectDescribesEveryKind) {
  EXPECT_THAT(inspect_path(job_.model.path), AllOf(HasSubstr("llama"), HasSubstr("quantization  none")));
  EXPECT_THAT(inspect_path(job_.output.path),
              AllOf(HasSubstr("GPTQ 4 bit, group 32"), HasSubstr("14 modules"), HasSubstr("I32")));
  EXPECT_THAT(inspect_path(output("model.safetensors")), HasSubstr("model.layers.0.mlp.up_proj.qweight"));
  write_calibration(root_ / "c.h5", 3, 8, 50, 1);
  EXPECT_THAT(inspect_path(root_ / "c.h5"), AllOf(HasSubstr("3 of 8 to 8 tokens"), HasSubstr("(checked)")));
  EXPECT_THROW(inspect_path(output("tokenizer.json")), InputError);
  EXPECT_THROW(inspect_path(root_ / "nowhere"), InputError);
}

TEST_F(VerifyTest, InspectCountsTheSameParametersBeforeAndAfter) {
  const auto line = [](const std::string& text) {
    const auto start = text.find("parameters");
    return text.substr(start, text.find('\n', start) - start);
  };
  EXPECT_EQ(line(inspect_path(job_.model.path)), line(inspect_path(job_.output.path)));
}

}  // namespace
}  // namespace gptq::test

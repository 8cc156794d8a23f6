#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <regex>
#include <set>

#include "base/file.h"
#include "base/sha256.h"
#include "io/output_directory.h"
#include "io/verify.h"
#include "quant/packing.h"
#include "unit/io_export_fixture.h"

namespace gptq::test {
namespace {

using nlohmann::json;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
namespace fs = std::filesystem;

class ExporterTest : public ExportTest {
 protected:
  json read_json(const std::string& name) const { return json::parse(read_text_file(output(name))); }

  static void expect_same_tensor(const SafetensorsReader& a, const SafetensorsReader& b,
                                 const std::string& name) {
    const HostTensor x = a.read(name), y = b.read(name);
    ASSERT_EQ(x.dtype, y.dtype) << name;
    ASSERT_EQ(x.shape, y.shape) << name;
    EXPECT_EQ(std::memcmp(x.storage.data(), y.storage.data(), x.storage.size()), 0) << name;
  }

  std::string complaint(const std::string& fingerprint = "fingerprint") {
    try {
      export_all(fingerprint);
    } catch (const Error& error) {
      return error.what();
    }
    return "no complaint";
  }
};

TEST_F(ExporterTest, OneFileHoldsCodesAndCopies) {
  make_source();
  export_all();
  const SafetensorsReader source(job_.model.path), result(job_.output.path);
  EXPECT_EQ(result.info("model.norm.weight").file, "model.safetensors");
  for (const char* name :
       {"model.embed_tokens.weight", "model.norm.weight", "model.layers.1.input_layernorm.weight"}) {
    expect_same_tensor(source, result, name);
  }
  const std::string module = "model.layers.1.mlp.down_proj";
  EXPECT_FALSE(result.contains(module + ".weight"));
  const QuantizedLayer expected = pattern_layer(module, {"mlp.down_proj", 64, 96, false}, job_.quantization);
  const QuantizedLayer found = unpack({result.read(module + ".qweight"), result.read(module + ".qzeros"),
                                       result.read(module + ".scales"), result.read(module + ".g_idx")},
                                      4, CheckpointFormat::gptq);
  EXPECT_EQ(found.codes, expected.codes);
  EXPECT_EQ(found.zeros, expected.zeros);
  EXPECT_EQ(found.group_of, expected.group_of);
  EXPECT_THAT(verify_output(job_.output.path).failures, IsEmpty());
}

TEST_F(ExporterTest, ConfigSaysWhatLoadersNeed) {
  make_source();
  export_all();
  const json config = read_json("config.json");
  const json quantization = config["quantization_config"];
  EXPECT_EQ(quantization, read_json("quantize_config.json"));
  EXPECT_EQ(quantization["bits"], 4);
  EXPECT_EQ(quantization["group_size"], 32);
  EXPECT_EQ(quantization["desc_act"], false);
  EXPECT_EQ(quantization["sym"], true);
  EXPECT_EQ(quantization["lm_head"], false);
  EXPECT_EQ(quantization["quant_method"], "gptq");
  EXPECT_EQ(quantization["checkpoint_format"], "gptq");
  EXPECT_EQ(quantization["pack_dtype"], "int32");
  EXPECT_FALSE(quantization.contains("dynamic"));
  EXPECT_EQ(quantization["modules_in_block_to_quantize"],
            json::parse(R"([["self_attn.q_proj","self_attn.k_proj","self_attn.v_proj"],["self_attn.o_proj"],)"
                        R"(["mlp.gate_proj","mlp.up_proj"],["mlp.down_proj"]])"));
  EXPECT_THAT(quantization["meta"]["quantizer"][0].get<std::string>(), HasSubstr("gptq-hpc:"));
  json rest = config;
  rest.erase("quantization_config");
  EXPECT_EQ(rest, json::parse(read_text_file(fs::path(job_.model.path) / "config.json")));
}

TEST_F(ExporterTest, ManifestListsEveryFileWithItsHash) {
  make_source();
  std::ofstream(fs::path(job_.model.path) / "LICENSE") << "free";
  std::ofstream(fs::path(job_.model.path) / "README.md") << "about the source";
  export_all("abc");
  const auto manifest = read_manifest(job_.output.path);
  ASSERT_TRUE(manifest);
  EXPECT_EQ(manifest->fingerprint, "abc");
  std::vector<std::string> names;
  for (const auto& [name, entry] : manifest->files) {
    names.push_back(name);
    EXPECT_EQ(entry.bytes, fs::file_size(output(name))) << name;
    EXPECT_EQ(entry.sha256, sha256_of_file(output(name))) << name;
  }
  EXPECT_THAT(names,
              ::testing::UnorderedElementsAre("LICENSE", "config.json", "generation_config.json",
                                              "model.safetensors", "quantize_config.json", "tokenizer.json"));
  for (const auto& entry : fs::directory_iterator(job_.output.path)) {
    const std::string name = entry.path().filename().string();
    EXPECT_TRUE(name == kManifestFile || manifest->files.contains(name)) << name;
  }
}

TEST_F(ExporterTest, FilesHoldWholeBlocks) {
  make_source({.layers = 4});
  job_.output.max_shard_bytes = 40'000;  // a block has about 19 kB, the embedding 16 kB
  export_all();
  const SafetensorsReader result(job_.output.path);
  std::map<std::string, std::set<std::string>> files_of_block;
  for (const auto& [name, info] : result.tensors()) {
    if (name.starts_with("model.layers.")) files_of_block[name.substr(0, 14)].insert(info.file);
    EXPECT_TRUE(std::regex_match(info.file, std::regex("model-0000\\d-of-0000\\d\\.safetensors")))
        << info.file;
  }
  EXPECT_EQ(files_of_block.size(), 4u);
  for (const auto& [block, files] : files_of_block) EXPECT_EQ(files.size(), 1u) << block;
  EXPECT_THAT(result.info("model.embed_tokens.weight").file, HasSubstr("model-00001-of"));
  EXPECT_NE(result.info("model.norm.weight").file, result.info("model.embed_tokens.weight").file);
  EXPECT_FALSE(fs::exists(output("model.safetensors")));
  EXPECT_THAT(verify_output(job_.output.path).failures, IsEmpty());
}

TEST_F(ExporterTest, ShardedAndSingleFileHoldTheSameTensors) {
  make_source({.layers = 4});
  export_all();
  JobConfig single = job_;
  job_.output.path = (root_ / "sharded").string();
  job_.output.max_shard_bytes = 1;
  export_all();
  const SafetensorsReader a(single.output.path), b(job_.output.path);
  ASSERT_EQ(a.tensors().size(), b.tensors().size());
  for (const auto& [name, info] : a.tensors()) expect_same_tensor(a, b, name);
}

TEST_F(ExporterTest, ExcludedModulesStayAndAreNamedForLoaders) {
  make_source({.layers = 3});
  job_.quantization.exclude = {"mlp.down_proj", "layers\\.1\\.self_attn\\.[qkv]_proj"};
  export_all();
  const SafetensorsReader source(job_.model.path), result(job_.output.path);
  expect_same_tensor(source, result, "model.layers.2.mlp.down_proj.weight");
  expect_same_tensor(source, result, "model.layers.1.self_attn.k_proj.weight");
  EXPECT_FALSE(result.contains("model.layers.1.self_attn.k_proj.qweight"));

  const json quantization = read_json("quantize_config.json");
  const auto skipped = [&](const std::string& module) {
    for (const auto& [rule, value] : quantization["dynamic"].items()) {
      EXPECT_TRUE(rule.starts_with("-:")) << rule;
      if (std::regex_search(module, std::regex(rule.substr(2)), std::regex_constants::match_continuous))
        return true;
    }
    return false;
  };
  EXPECT_TRUE(skipped("model.layers.0.mlp.down_proj"));
  EXPECT_TRUE(skipped("model.layers.1.self_attn.v_proj"));
  EXPECT_TRUE(skipped("model.layers.1.self_attn.qkv_proj")) << "vLLM's fused name";
  EXPECT_FALSE(skipped("model.layers.0.self_attn.qkv_proj"));
  EXPECT_FALSE(skipped("model.layers.1.self_attn.o_proj"));
  EXPECT_FALSE(skipped("model.layers.11.self_attn.q_proj"));
  EXPECT_THAT(quantization["modules_in_block_to_quantize"].dump(), Not(HasSubstr("down_proj")));
  EXPECT_THAT(verify_output(job_.output.path).failures, IsEmpty());
}

TEST_F(ExporterTest, BiasesBecomeHalf) {
  make_source({.model_type = "qwen2"});
  job_.quantization.exclude = {"layers\\.0\\."};
  export_all();
  const SafetensorsReader result(job_.output.path);
  EXPECT_EQ(result.info("model.layers.1.self_attn.q_proj.bias").dtype, DType::f16);
  EXPECT_EQ(result.info("model.layers.0.self_attn.q_proj.bias").dtype, DType::bf16) << "not quantized";
  EXPECT_THAT(verify_output(job_.output.path).failures, IsEmpty());
}

TEST_F(ExporterTest, HeadNormsAndUntiedHead) {
  make_source({.model_type = "qwen3", .tie = false});
  export_all();
  const SafetensorsReader source(job_.model.path), result(job_.output.path);
  expect_same_tensor(source, result, "model.layers.0.self_attn.q_norm.weight");
  expect_same_tensor(source, result, "lm_head.weight");
  EXPECT_THAT(verify_output(job_.output.path).failures, IsEmpty());
}

TEST_F(ExporterTest, TiedHeadAndRotaryBuffersAreNotWritten) {
  make_source();
  const SafetensorsReader before(job_.model.path);
  const HostTensor extra = make_tensor(DType::f32, {8});
  std::memset(extra.storage.data(), 0, extra.storage.size());
  const std::vector<std::string> added = {"lm_head.weight", "model.layers.0.self_attn.rotary_emb.inv_freq",
                                          "model.layers.0.self_attn.other", "other.table"};
  std::vector<std::pair<std::string, TensorInfo>> infos(before.tensors().begin(), before.tensors().end());
  for (const auto& name : added) infos.push_back({name, {DType::f32, {8}, "", 0, 0}});
  SafetensorsWriter writer(fs::path(job_.model.path) / "model.safetensors", infos);
  for (const auto& [name, info] : before.tensors()) writer.copy(name, before);
  for (const auto& name : added) writer.write(name, extra);
  writer.finish();
  export_all();
  const SafetensorsReader result(job_.output.path);
  EXPECT_FALSE(result.contains("lm_head.weight"));
  EXPECT_FALSE(result.contains("model.layers.0.self_attn.rotary_emb.inv_freq"));
  EXPECT_TRUE(result.contains("model.layers.0.self_attn.other"));
  EXPECT_TRUE(result.contains("other.table"));
}

TEST_F(ExporterTest, AnUnfinishedDirectoryIsNoOutput) {
  make_source();
  const ModelWeights model(job_.model.path);
  const Recipe recipe(job_.quantization);
  {
    Exporter exporter(job_, model, recipe, "abc");
    EXPECT_TRUE(fs::exists(output("model.safetensors.partial")));
    EXPECT_THROW(exporter.finish(), Error) << "blocks are missing";
    EXPECT_FALSE(is_finished_output(job_.output.path, "abc"));
  }
  EXPECT_FALSE(fs::exists(output("config.json")));
  EXPECT_FALSE(fs::exists(output("model.safetensors")));
  EXPECT_THAT(complaint("another job"), HasSubstr("--overwrite"));
  EXPECT_EQ(complaint("abc"), "no complaint") << "the same job may go on";
  EXPECT_TRUE(is_finished_output(job_.output.path, "abc"));
  EXPECT_FALSE(is_finished_output(job_.output.path, "another job"));
}

TEST_F(ExporterTest, FinishedOutputThatLostAFileIsNotFinished) {
  make_source();
  export_all("abc");
  ASSERT_TRUE(is_finished_output(job_.output.path, "abc"));
  fs::resize_file(output("model.safetensors"), 100);
  EXPECT_FALSE(is_finished_output(job_.output.path, "abc"));
  fs::remove(output("model.safetensors"));
  EXPECT_FALSE(is_finished_output(job_.output.path, "abc"));
  EXPECT_FALSE(is_finished_output(root_ / "nowhere", "abc"));
}

TEST_F(ExporterTest, OverwriteReplacesAnotherJobsOutput) {
  make_source({.layers = 4});
  job_.output.max_shard_bytes = 1;
  export_all("first");
  job_.output.max_shard_bytes = 1'000'000;
  job_.output.overwrite = true;
  export_all("second");
  EXPECT_TRUE(is_finished_output(job_.output.path, "second"));
  EXPECT_FALSE(fs::exists(output("model.safetensors.index.json"))) << "would hide the new file";
  EXPECT_THAT(verify_output(job_.output.path).failures, IsEmpty());
}

TEST_F(ExporterTest, SourceThatIsQuantizedAlready) {
  make_source();
  export_all();
  job_.model.path = job_.output.path;
  job_.output.path = (root_ / "again").string();
  EXPECT_THAT(complaint(), HasSubstr("quantized already"));
}

TEST_F(ExporterTest, SameInputsSameBytes) {
  make_source();
  export_all();
  const std::string first = sha256_of_file(output("model.safetensors"));
  job_.output.path = (root_ / "again").string();
  export_all();
  EXPECT_EQ(sha256_of_file(output("model.safetensors")), first);
}

struct FormatCase {
  int bits;
  std::int64_t group_size;
  bool sym, desc_act;
  const char* checkpoint_format;
};

class ExportFormats : public ExporterTest, public ::testing::WithParamInterface<FormatCase> {};

TEST_P(ExportFormats, VerifyAcceptsThem) {
  make_source();
  job_.quantization.bits = GetParam().bits;
  job_.quantization.group_size = GetParam().group_size;
  job_.quantization.sym = GetParam().sym;
  job_.quantization.desc_act = GetParam().desc_act;
  job_.quantization.act_group_aware = false;
  job_.output.checkpoint_format = GetParam().checkpoint_format;
  export_all();
  const VerifyResult result = verify_output(job_.output.path);
  EXPECT_THAT(result.failures, IsEmpty());
  EXPECT_EQ(result.quantized_modules, 14);
  EXPECT_EQ(result.files, 5);
}

INSTANTIATE_TEST_SUITE_P(
    All, ExportFormats,
    ::testing::Values(FormatCase{2, 32, true, false, "gptq"}, FormatCase{3, 32, false, false, "gptq"},
                      FormatCase{4, -1, true, true, "gptq"}, FormatCase{4, 40, false, true, "gptq_v2"},
                      FormatCase{8, 16, true, false, "gptq_v2"}, FormatCase{3, -1, true, false, "gptq"},
                      FormatCase{8, 1, false, false, "gptq"}, FormatCase{3, 32, false, false, "gptq_v2"},
                      FormatCase{3, 32, false, true, "gptq_p"}, FormatCase{4, 32, true, false, "gptq_p"},
                      FormatCase{5, 40, true, false, "gptq_p"}, FormatCase{6, -1, false, false, "gptq_p"},
                      FormatCase{7, 16, true, true, "gptq_p"}));

}  // namespace
}  // namespace gptq::test

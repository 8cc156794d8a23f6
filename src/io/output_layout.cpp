#include "io/output_layout.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "io/safetensors_writer.h"
#include "model/recipe_check.h"
#include "quant/packing.h"

namespace gptq {
namespace {

using NamedTensors = std::vector<std::pair<std::string, TensorInfo>>;

TensorInfo described(DType dtype, std::vector<std::int64_t> shape) {
  TensorInfo info{dtype, std::move(shape), "", 0, size_of(dtype)};
  for (const std::int64_t extent : info.shape) info.bytes *= static_cast<std::uint64_t>(extent);
  return info;
}

std::uint64_t bytes_of(const NamedTensors& tensors) {
  std::uint64_t bytes = 0;
  for (const auto& [name, info] : tensors) bytes += info.bytes;
  return bytes;
}

/// The tensors that stand for M.weight of a quantized module M.
NamedTensors packed_tensors(const std::string& module, const LinearShape& layer,
                            const QuantizationSection& options) {
  const std::int64_t in = layer.in_features;
  const std::int64_t out = layer.out_features;
  const std::int64_t groups = options.group_size < 0 ? 1 : (in + options.group_size - 1) / options.group_size;
  return {{module + ".qweight", described(DType::i32, {packed_words(in, options.bits), out})},
          {module + ".qzeros", described(DType::i32, {groups, packed_words(out, options.bits)})},
          {module + ".scales", described(DType::f16, {groups, out})},
          {module + ".g_idx", described(DType::i32, {in})}};
}

/// A kept tensor: as in the source.
std::pair<std::string, TensorInfo> kept(const std::string& name, const TensorInfo& source) {
  return {name, described(source.dtype, source.shape)};
}

class LayoutMaker {
 public:
  LayoutMaker(const ModelWeights& model, const Recipe& recipe, const OutputSection& output)
      : model_(model),
        recipe_(recipe),
        max_file_bytes_(static_cast<std::uint64_t>(output.max_shard_bytes)),
        dequantized_(is_dequantized(output)) {}

  OutputLayout make() {
    const std::string embedding = std::string(model_.architecture().embedding) + ".weight";
    sort_tensors();
    add({kept(embedding, model_.files().info(embedding))});
    layout_.outside_blocks.push_back(embedding);
    for (std::int64_t block = 0; block < model_.config().num_hidden_layers; ++block) add_block(block);
    NamedTensors rest = quantized_head();
    for (const std::string& name : outside_) {
      if (name == embedding || is_left_out(name)) continue;
      rest.push_back(kept(name, model_.files().info(name == head_ ? model_.head_source() : name)));
      layout_.outside_blocks.push_back(name);
    }
    add(rest);
    name_files();
    return std::move(layout_);
  }

 private:
  /// Deals the source's tensors to their blocks.
  void sort_tensors() {
    of_block_.resize(static_cast<std::size_t>(model_.config().num_hidden_layers));
    std::vector<std::string> prefixes;
    for (std::size_t b = 0; b < of_block_.size(); ++b) {
      prefixes.push_back(block_prefix(model_.architecture(), static_cast<std::int64_t>(b)));
    }
    for (const auto& [name, info] : model_.files().tensors()) {
      if (name.ends_with(".qweight")) {
        throw InputError(
            "the source model {} is quantized already ('{}'); quantize the original model instead",
            model_.files().directory().string(), name);
      }
      const auto prefix =
          std::find_if(prefixes.begin(), prefixes.end(),
                       [&name = name](const std::string& text) { return name.starts_with(text); });
      if (prefix == prefixes.end()) {
        outside_.push_back(name);
      } else {
        of_block_[static_cast<std::size_t>(prefix - prefixes.begin())].push_back(name);
      }
    }
    // A head that was untied by the rotation is in no file yet.
    if (!model_.config().tie_word_embeddings && !model_.files().contains(head_)) outside_.push_back(head_);
  }

  bool is_left_out(const std::string& name) const {
    const bool replaced = model_.config().tie_word_embeddings || !layout_.head.empty();
    return (replaced && name == head_) || is_dropped(model_.architecture(), name);
  }

  /// What stands for the head's weight where it is quantized.
  NamedTensors quantized_head() {
    const LinearShape head = head_shape(model_.architecture(), model_.config());
    if (!recipe_.quantizes_head(head.name)) return {};
    if (const std::string problem = head_problem(model_, recipe_); !problem.empty())
      throw UsageError("{}", problem);
    const NamedTensors tensors = dequantized_
                                     ? NamedTensors{kept(head_, model_.files().info(model_.head_source()))}
                                     : packed_tensors(head.name, head, recipe_.section_of(head.name));
    for (const auto& [name, info] : tensors) layout_.head.push_back(name);
    return tensors;
  }

  void add_block(std::int64_t block) {
    const std::string prefix = block_prefix(model_.architecture(), block);
    NamedTensors tensors;
    std::set<std::string> replaced;
    for (const LinearShape& layer : model_.layout(block).layers()) {
      const std::string module = prefix + layer.name;
      if (!recipe_.selects(module)) continue;
      replaced.insert(module + ".weight");
      if (dequantized_) {
        tensors.push_back(kept(module + ".weight", model_.files().info(module + ".weight")));
        continue;
      }
      for (auto& tensor : packed_tensors(module, layer, recipe_.section_of(module)))
        tensors.push_back(std::move(tensor));
      if (model_.files().contains(module + ".bias")) {
        tensors.emplace_back(module + ".bias", described(DType::f16, {layer.out_features}));
        replaced.insert(module + ".bias");
      }
    }
    std::vector<std::string>& copied = layout_.copied.emplace_back();
    for (const std::string& name : of_block_[static_cast<std::size_t>(block)]) {
      if (replaced.contains(name) || is_left_out(name)) continue;
      tensors.push_back(kept(name, model_.files().info(name)));
      copied.push_back(name);
    }
    add(tensors);
  }

  /// Appends tensors that must stay together.
  void add(const NamedTensors& tensors) {
    if (tensors.empty()) return;
    const std::uint64_t bytes = bytes_of(tensors);
    if (layout_.files.empty() || (file_bytes_ > 0 && file_bytes_ + bytes > max_file_bytes_)) {
      layout_.files.emplace_back();
      file_bytes_ = 0;
    }
    auto& file = layout_.files.back().tensors;
    for (const auto& tensor : tensors) {
      layout_.file_of[tensor.first] = layout_.files.size() - 1;
      file.push_back(tensor);
    }
    file_bytes_ += bytes;
    layout_.tensor_bytes += bytes;
  }

  void name_files() {
    const std::size_t count = layout_.files.size();
    for (std::size_t f = 0; f < count; ++f) {
      layout_.files[f].name =
          count == 1 ? "model.safetensors" : fmt::format("model-{:05}-of-{:05}.safetensors", f + 1, count);
    }
  }

  const ModelWeights& model_;
  const Recipe& recipe_;
  std::uint64_t max_file_bytes_;
  bool dequantized_;
  std::string head_ = std::string(model_.architecture().head) + ".weight";
  std::uint64_t file_bytes_ = 0;
  std::vector<std::string> outside_;
  std::vector<std::vector<std::string>> of_block_;
  OutputLayout layout_;
};

}  // namespace

std::string OutputLayout::index_json() const {
  nlohmann::ordered_json index;
  index["metadata"] = {{"total_size", tensor_bytes}};
  for (const auto& [name, file] : file_of) index["weight_map"][name] = files[file].name;
  return index.dump(2) + "\n";
}

bool is_dequantized(const OutputSection& output) {
  return output.format == "dequantized";
}

OutputLayout lay_out_output(const ModelWeights& model, const Recipe& recipe, const OutputSection& output) {
  return LayoutMaker(model, recipe, output).make();
}

}  // namespace gptq

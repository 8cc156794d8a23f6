#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "base/error.h"
#include "io/verify_parts.h"
#include "quant/packing.h"

namespace gptq {
namespace {

using Shape = std::vector<std::int64_t>;

bool is_floating(DType dtype) {
  return dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16 || dtype == DType::f64;
}

class TensorVerifier {
 public:
  TensorVerifier(const OutputModel& model, VerifyResult& result) : model_(model), result_(result) {}

  void run() {
    const Architecture& names = model_.architecture;
    const ModelConfig& config = model_.config;
    for (const TensorShape& tensor : outside_tensors(names, config)) expect_kept(tensor.name, tensor.shape);
    for (std::int64_t block = 0; block < config.num_hidden_layers; ++block) verify_block(block);
    verify_head();
    verify_strays();
    if (result_.quantized_modules == 0 && !model_.dequantized)
      result_.failures.push_back("no module is quantized");
    if (wrapped_zeros_ > 0) {
      result_.notes.push_back(
          fmt::format("{} zeros are 0, which format v1 stores as 2^bits - 1; some loaders add 1 "
                      "without wrapping and spoil the neighbour: write checkpoint_format gptq_v2",
                      wrapped_zeros_));
    }
  }

 private:
  template <typename... Args>
  void fail(fmt::format_string<Args...> format, Args&&... args) {
    result_.failures.push_back(fmt::format(format, std::forward<Args>(args)...));
  }

  /// True if the tensor is there with this shape and kind of type.
  bool expect(const std::string& name, const Shape& shape, const std::vector<DType>& dtypes) {
    known_.insert(name);
    if (!model_.files.contains(name)) {
      fail("tensor '{}' is missing", name);
      return false;
    }
    const TensorInfo& info = model_.files.info(name);
    const bool good_type = std::find(dtypes.begin(), dtypes.end(), info.dtype) != dtypes.end();
    if (good_type && info.shape == shape) return true;
    fail("tensor '{}' is {} {}, but must be {} {}", name, name_of(info.dtype), info.shape,
         name_of(dtypes.front()), shape);
    return false;
  }

  bool expect_kept(const std::string& name, const Shape& shape) {
    return expect(name, shape, {model_.config.dtype, DType::bf16, DType::f16, DType::f32});
  }

  void verify_head() {
    const LinearShape head = head_shape(model_.architecture, model_.config);
    const std::string weight = head.name + ".weight";
    const bool quantized = model_.is_quantized(head.name);
    if (quantized != model_.config.quantized.lm_head) {
      fail("{} is {}, but quantization_config says lm_head: {}", head.name,
           quantized ? "quantized" : "not quantized", model_.config.quantized.lm_head);
    }
    if (model_.config.tie_word_embeddings) {
      for (const char* part : {".weight", ".qweight", ".qzeros", ".scales", ".g_idx"}) {
        if (!model_.files.contains(head.name + part)) continue;
        known_.insert(head.name + part);
        fail("'{}{}' is written although config.json ties it to the embedding", head.name, part);
      }
    } else if (quantized) {
      verify_quantized(head.name, head);
    } else {
      expect_kept(weight, {head.out_features, head.in_features});
    }
  }

  void verify_block(std::int64_t block) {
    const Architecture& names = model_.architecture;
    const std::string prefix = block_prefix(names, block);
    const BlockLayout& layout = model_.layouts[static_cast<std::size_t>(block)];
    for (const TensorShape& norm : layout.norms) expect_kept(prefix + norm.name, norm.shape);
    for (const LinearShape& layer : layout.layers()) verify_linear(prefix + layer.name, layer);
    if (model_.dequantized) return;
    for (const JoinedModules& joined : joined_modules(names)) verify_joined(prefix, joined);
  }

  /// An ordinary model's: nothing packed, no NaN.
  void verify_dequantized(const std::string& module, const LinearShape& layer) {
    if (layer.bias) expect_kept(module + ".bias", {layer.out_features});
    if (!expect_kept(module + ".weight", layer.stored_shape())) return;
    const HostTensor weight = convert(model_.files.read(module + ".weight"), DType::f32);
    const auto* values = reinterpret_cast<const float*>(weight.storage.data());
    if (!std::all_of(values, values + weight.elements(), [](float v) { return std::isfinite(v); })) {
      fail("{}.weight holds NaN or infinity", module);
    }
  }

  void verify_linear(const std::string& module, const LinearShape& layer) {
    if (model_.dequantized) return verify_dequantized(module, layer);
    const bool quantized = model_.is_quantized(module);
    const Shape bias{layer.out_features};
    if (layer.bias && quantized) expect(module + ".bias", bias, {DType::f16});
    if (layer.bias && !quantized) expect_kept(module + ".bias", bias);
    if (!quantized) {
      if (!expect_kept(module + ".weight", layer.stored_shape())) return;
      if (!model_.config.quantized.skips(module)) {
        fail("{} is not quantized, but no rule of 'dynamic' says so", module);
      }
      return;
    }
    if (model_.config.quantized.skips(module)) {
      fail("{} is quantized, but {} says that it is not", module,
           model_.config.quantized.mixed ? "quantization_bits" : "a rule of 'dynamic'");
    }
    verify_quantized(module, layer);
  }

  void verify_quantized(const std::string& module, const LinearShape& layer) {
    result_.quantized_modules += 1;
    if (model_.files.contains(module + ".weight")) {
      known_.insert(module + ".weight");
      fail("'{0}.weight' lies beside '{0}.qweight'", module);
    }
    const int bits = model_.form_of(module).bits;
    const std::int64_t groups = groups_of(model_.form_of(module), layer.in_features);
    const bool qweight = expect(module + ".qweight",
                                {packed_words(layer.in_features, bits), layer.out_features}, {DType::i32});
    const bool qzeros =
        expect(module + ".qzeros", {groups, packed_words(layer.out_features, bits)}, {DType::i32});
    const bool scales = expect(module + ".scales", {groups, layer.out_features}, {DType::f16});
    const bool g_idx = expect(module + ".g_idx", {layer.in_features}, {DType::i32});
    if (qweight && qzeros && scales && g_idx) verify_content(module, layer);
  }

  void verify_content(const std::string& module, const LinearShape& layer) {
    const QuantizedForm options = model_.form_of(module);
    const CheckpointFormat format = model_.config.quantized.format;
    PackedLayer packed{model_.files.read(module + ".qweight"), model_.files.read(module + ".qzeros"),
                       model_.files.read(module + ".scales"), model_.files.read(module + ".g_idx")};
    if (!verify_g_idx(module, packed.g_idx, layer.in_features))
      return;  // a wild index must not reach dequantize
    QuantizedLayer unpacked = unpack(packed, options.bits, format);
    const bool good_scales = std::all_of(unpacked.scales.begin(), unpacked.scales.end(), [](f16 scale) {
      return std::isfinite(to_float(scale)) && to_float(scale) >= 0;
    });
    if (!good_scales) fail("{}.scales holds NaN, infinity or negative values", module);
    const bool trits = model_.config.quantized.trits && options == QuantizedForm(model_.config.quantized);
    const int limit = trits ? 3 : 1 << options.bits;
    const bool good_codes =
        std::all_of(unpacked.codes.begin(), unpacked.codes.end(), [&](int c) { return c < limit; });
    if (!good_codes) fail("{}.qweight holds codes of {} and more", module, limit);
    const auto zeros = std::count(unpacked.zeros.begin(), unpacked.zeros.end(), 0);
    if (format == CheckpointFormat::gptq) wrapped_zeros_ += zeros;
    const int middle = limit / 2;
    if (options.sym &&
        std::any_of(unpacked.zeros.begin(), unpacked.zeros.end(), [&](int z) { return z != middle; })) {
      fail("{}.qzeros: a symmetric model has the zero {} everywhere", module, middle);
    }
    const HostTensor weight = dequantize(weights_of(unpacked));
    const auto* values = reinterpret_cast<const float*>(weight.storage.data());
    if (good_scales &&
        !std::all_of(values, values + weight.elements(), [](float v) { return std::isfinite(v); })) {
      fail("{} dequantizes to NaN or infinity", module);
    }
  }

  bool verify_g_idx(const std::string& module, const HostTensor& tensor, std::int64_t in_features) {
    const QuantizedForm options = model_.form_of(module);
    const auto* g_idx = reinterpret_cast<const std::int32_t*>(tensor.storage.data());
    const std::int64_t groups = groups_of(options, in_features);
    const std::int64_t size = options.group_size < 0 ? in_features : options.group_size;
    std::vector<std::int64_t> members(static_cast<std::size_t>(groups));
    for (std::int64_t column = 0; column < in_features; ++column) {
      if (g_idx[column] < 0 || g_idx[column] >= groups) {
        fail("{}.g_idx: column {} is in group {}, but there are {}", module, column, g_idx[column], groups);
        return false;
      }
      if (!options.desc_act && g_idx[column] != column / size) {
        fail("{}.g_idx: column {} is in group {} instead of {}, and desc_act is false: loaders ignore it",
             module, column, g_idx[column], column / size);
        return true;
      }
      members[static_cast<std::size_t>(g_idx[column])] += 1;
    }
    const auto largest = std::max_element(members.begin(), members.end());
    if (*largest > size)
      fail("{}.g_idx: group {} has {} columns", module, largest - members.begin(), *largest);
    return true;
  }

  /// vLLM joins these modules: all quantized or none, alike, and with one order of columns.
  void verify_joined(const std::string& prefix, const JoinedModules& joined) {
    std::vector<std::string> modules;
    for (const std::string& part : joined.parts) modules.push_back(prefix + part);
    const auto quantized =
        std::count_if(modules.begin(), modules.end(), [&](const auto& m) { return model_.is_quantized(m); });
    if (quantized != 0 && static_cast<std::size_t>(quantized) != modules.size()) {
      fail("{}: of {} only {} is quantized; loaders that join them ({}) need all or none", prefix,
           fmt::join(joined.parts, ", "), quantized, joined.name);
      return;
    }
    const QuantizedForm form = model_.form_of(modules.front());
    for (const std::string& module : modules) {
      if (quantized == 0) continue;
      if (model_.form_of(module) != form) {
        fail(
            "{} differs from {} in bits, group_size, sym or desc_act, and loaders that join them ({}) take "
            "neither",
            module, modules.front(), joined.name);
        return;
      }
      if (same_columns(modules.front(), module)) continue;
      fail("{}.g_idx differs from that of {}; loaders that join them ({}) keep only one", module,
           modules.front(), joined.name);
    }
    if (!model_.config.quantized.mixed) verify_joined_rule(modules, prefix + joined.name, quantized > 0);
  }

  void verify_joined_rule(const std::vector<std::string>& modules, const std::string& joined,
                          bool quantized) {
    const QuantizedConfig& config = model_.config.quantized;
    if (config.skips(joined) == quantized) {
      fail("'dynamic' {} {}, the name under which vLLM knows {}",
           quantized ? "skips" : "lacks a rule that skips", joined, fmt::join(modules, ", "));
    } else if (quantized && config.form_of(joined) != config.form_of(modules.front())) {
      fail("'dynamic' says of {}, the name under which vLLM knows {}, something else than of these", joined,
           fmt::join(modules, ", "));
    }
  }

  bool same_columns(const std::string& a, const std::string& b) const {
    if (a == b || !model_.files.contains(a + ".g_idx") || !model_.files.contains(b + ".g_idx")) return true;
    const HostTensor left = model_.files.read(a + ".g_idx");
    const HostTensor right = model_.files.read(b + ".g_idx");
    return left.storage.size() == right.storage.size() &&
           std::equal(left.storage.data(), left.storage.data() + left.storage.size(), right.storage.data());
  }

  void verify_strays() {
    for (const auto& [name, info] : model_.files.tensors()) {
      if (known_.contains(name)) continue;
      if (is_floating(info.dtype)) {
        result_.notes.push_back(
            fmt::format("tensor '{}' belongs to no known module; strict loaders refuse it", name));
      } else {
        fail("stray tensor '{}' ({}): loaders take its module for a quantized one", name,
             name_of(info.dtype));
      }
    }
  }

  const OutputModel& model_;
  VerifyResult& result_;
  std::set<std::string> known_;
  std::int64_t wrapped_zeros_ = 0;
};

}  // namespace

void verify_tensors(const OutputModel& model, VerifyResult& result) {
  TensorVerifier(model, result).run();
}

}  // namespace gptq

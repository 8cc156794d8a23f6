#include "synthetic/model_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>
#include <vector>

#include "base/file.h"
#include "base/process.h"
#include "io/safetensors_writer.h"
#include "model/model_config.h"
#include "model/weights.h"
#include "synthetic/weights.h"

namespace gptq::synthetic {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kPieceElements = 2 << 20;

/// A tensor, where it lies, and how many pieces come before it.
struct PlacedTensor {
  TensorRecipe recipe;
  std::size_t file = 0;
  std::uint64_t offset = 0;
  std::int64_t elements = 0;
  std::int64_t first_piece = 0;
};

std::int64_t elements_of(const TensorRecipe& recipe) {
  std::int64_t count = 1;
  for (const std::int64_t extent : recipe.shape) count *= extent;
  return count;
}

/// The tensors of each file: filled in order up to shard_bytes.
std::vector<std::vector<TensorRecipe>> deal(std::vector<TensorRecipe> tensors, std::size_t element,
                                            std::uint64_t shard_bytes) {
  std::vector<std::vector<TensorRecipe>> files(1);
  std::uint64_t bytes = 0;
  for (TensorRecipe& tensor : tensors) {
    const std::uint64_t size = static_cast<std::uint64_t>(elements_of(tensor)) * element;
    if (bytes > 0 && bytes + size > shard_bytes) {
      files.emplace_back();
      bytes = 0;
    }
    bytes += size;
    files.back().push_back(std::move(tensor));
  }
  return files;
}

class ModelFiles {
 public:
  ModelFiles(fs::path directory, const ModelOptions& options, std::vector<std::vector<TensorRecipe>> files)
      : directory_(std::move(directory)), options_(options) {
    for (std::size_t f = 0; f < files.size(); ++f) {
      names_.push_back(files.size() == 1
                           ? "model.safetensors"
                           : fmt::format("model-{:05}-of-{:05}.safetensors", f + 1, files.size()));
      add_file(f, std::move(files[f]));
    }
  }

  void write() {
    const int threads = options_.threads > 0 ? options_.threads : available_cores();
    if (!options_.hollow) {
      std::vector<std::jthread> workers;
      for (int t = 0; t < threads; ++t) workers.emplace_back([this] { work(); });
    }
    if (failure_) std::rethrow_exception(failure_);
    for (std::size_t f = 0; f < names_.size(); ++f) {
      files_[f].close();
      fs::rename(partial_path(directory_ / names_[f]), directory_ / names_[f]);
    }
    if (names_.size() > 1) write_index();
  }

  std::uint64_t weight_bytes() const { return weight_bytes_; }

 private:
  void add_file(std::size_t number, std::vector<TensorRecipe> recipes) {
    std::vector<std::pair<std::string, TensorInfo>> infos;
    for (const TensorRecipe& recipe : recipes)
      infos.push_back({recipe.name, {options_.dtype, recipe.shape, "", 0, 0}});
    const SafetensorsLayout layout = lay_out_safetensors(infos);
    files_.push_back(File::create(partial_path(directory_ / names_[number])));
    if (options_.hollow) {
      fs::resize_file(partial_path(directory_ / names_[number]), layout.bytes);
    } else {
      files_.back().reserve(layout.bytes);
    }
    files_.back().write_at(layout.header.data(), layout.header.size(), 0);
    // One element type in a file: the layout keeps the order.
    for (std::size_t i = 0; i < recipes.size(); ++i) {
      const std::int64_t elements = elements_of(recipes[i]);
      tensors_.push_back({std::move(recipes[i]), number, layout.tensors[i].second.offset, elements, pieces_});
      pieces_ += (elements + kPieceElements - 1) / kPieceElements;
      weight_bytes_ += static_cast<std::uint64_t>(elements) * size_of(options_.dtype);
    }
  }

  void work() {
    try {
      std::vector<std::byte> buffer(static_cast<std::size_t>(kPieceElements) * size_of(options_.dtype));
      for (std::int64_t piece = next_++; piece < pieces_; piece = next_++) write_piece(piece, buffer);
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (!failure_) failure_ = std::current_exception();
      next_ = pieces_;
    }
  }

  void write_piece(std::int64_t piece, std::vector<std::byte>& buffer) const {
    const auto behind =
        std::upper_bound(tensors_.begin(), tensors_.end(), piece,
                         [](std::int64_t p, const PlacedTensor& t) { return p < t.first_piece; });
    const PlacedTensor& tensor = *std::prev(behind);
    const std::int64_t first = (piece - tensor.first_piece) * kPieceElements;
    const std::int64_t count = std::min(kPieceElements, tensor.elements - first);
    const std::size_t element = size_of(options_.dtype);
    TensorSource(tensor.recipe, options_.seed).fill(options_.dtype, first, count, buffer.data());
    files_[tensor.file].write_at(buffer.data(), static_cast<std::size_t>(count) * element,
                                 tensor.offset + static_cast<std::uint64_t>(first) * element);
  }

  void write_index() const {
    nlohmann::ordered_json map = nlohmann::ordered_json::object();
    for (const PlacedTensor& tensor : tensors_) map[tensor.recipe.name] = names_[tensor.file];
    const nlohmann::ordered_json index = {{"metadata", {{"total_size", weight_bytes_}}}, {"weight_map", map}};
    write_file(directory_ / "model.safetensors.index.json", index.dump(2) + "\n");
  }

  fs::path directory_;
  const ModelOptions& options_;
  std::vector<std::string> names_;
  std::vector<File> files_;
  std::vector<PlacedTensor> tensors_;
  std::int64_t pieces_ = 0;
  std::uint64_t weight_bytes_ = 0;
  std::atomic<std::int64_t> next_ = 0;
  std::mutex mutex_;
  std::exception_ptr failure_;
};

}  // namespace

std::uint64_t write_model(const fs::path& directory, const ModelOptions& options) {
  require_sane(options.shape);
  fs::create_directories(directory);
  write_file(directory / "config.json", config_json(options.shape, options.dtype).dump(2) + "\n");
  // Read back: tensors follow from what a job will read.
  const ModelConfig config = read_model_config(directory);
  std::vector<TensorRecipe> tensors = model_recipe(find_architecture(config.model_type), config);
  ModelFiles files(directory, options, deal(std::move(tensors), size_of(options.dtype), options.shard_bytes));
  files.write();
  write_file(directory / "tokenizer.json", "{\"version\": \"1.0\", \"model\": {\"type\": \"synthetic\"}}\n");
  ModelWeights(directory).check();
  return files.weight_bytes();
}

}  // namespace gptq::synthetic

#include <algorithm>
#include <array>
#include <map>

#include "io/checkpoint_file.h"
#include "io/checkpoint_format.h"

namespace gptq {

namespace fs = std::filesystem;
namespace format = checkpoint_format;

struct RankFile::State {
  /// An open data set with what it must hold.
  struct Dataset {
    Hdf5Handle handle;
    DType dtype = DType::f32;
    std::vector<std::int64_t> shape;
    std::int64_t rows_left_out = 0;  ///< of the first samples
  };

  std::string path;
  Hdf5Handle file;
  Header header;
  std::vector<std::int64_t> samples;
  std::vector<std::int64_t> lengths;
  std::vector<std::int64_t> first_row{0};  ///< of each sample, and one past the last
  std::vector<std::int64_t> chunks;
  std::map<std::string, Dataset> datasets;

  /// Reading what is written nowhere else in this way: every complaint of HDF5 is one about this file.
  template <typename T>
  T check(T result, const char* what) const {
    if (result < 0) throw InputError("cannot {} {}: {}", what, path, hdf5_reason());
    return result;
  }

  InputError wrong(const std::string& what) const {
    return InputError("{} is no complete rank file of a checkpoint: {}", path, what);
  }

  void open(const fs::path& file_path) {
    path = file_path.string();
    std::error_code ignored;
    if (!fs::exists(file_path, ignored)) throw InputError("{} does not exist", path);
    if (H5Fis_hdf5(path.c_str()) <= 0) {
      H5Eclear2(H5E_DEFAULT);
      throw InputError("{} is no HDF5 file, or is damaged", path);
    }
    file = hdf5_open(file_path);
    read_header();
    read_samples();
    for (const char* name : format::kActivations) {
      if (name != std::string("hidden") && !exists(file.get(), name)) continue;
      add_activation(name);
    }
    if (exists(file.get(), format::kHeldOutHidden)) add_activation(format::kHeldOutHidden);
    if (exists(file.get(), "sum")) {
      datasets["sum"] = dataset(file.get(), "sum", DType::i64, 1);
      chunks = integers("sum_chunks");
      if (exists(file.get(), "cross")) datasets["cross"] = dataset(file.get(), "cross", DType::i64, 1);
    }
  }

  void read_header() {
    const std::string found = hdf5_text_attribute(file.get(), "format", path);
    if (found != format::kFormat) throw wrong(fmt::format("its format is '{}'", found));
    const std::int64_t version = hdf5_integer_attribute(file.get(), "version", path);
    if (version != format::kVersion) {
      throw InputError(
          "{} has format version {}, this program reads version {}: resume with the program that wrote it",
          path, version, format::kVersion);
    }
    header.generation = hdf5_integer_attribute(file.get(), "generation", path);
    header.rank = hdf5_integer_attribute(file.get(), "rank", path);
    header.block = hdf5_integer_attribute(file.get(), "block", path);
    header.group = hdf5_integer_attribute(file.get(), "group", path);
  }

  void read_samples() {
    samples = integers("samples");
    lengths = integers("lengths");
    if (samples.size() != lengths.size()) throw wrong("samples and lengths differ in number");
    for (std::size_t i = 0; i < samples.size(); ++i) {
      if (samples[i] != samples[0] + static_cast<std::int64_t>(i))
        throw wrong("its samples are not consecutive");
      if (lengths[i] < 0) throw wrong(fmt::format("sample {} has a length of {}", samples[i], lengths[i]));
      first_row.push_back(first_row.back() + lengths[i]);
    }
  }

  void add_activation(const char* name) {
    const Hdf5Handle data(check(H5Dopen2(file.get(), name, H5P_DEFAULT), "open a dataset of"));
    const DType dtype = dtype_from_name(hdf5_text_attribute(data.get(), format::kDType, path));
    Dataset found = dataset(file.get(), name, dtype, 2);
    found.rows_left_out = first_row.back() - found.shape[0];
    const bool of_last_samples =
        std::find(first_row.begin(), first_row.end(), found.rows_left_out) != first_row.end();
    if (name == std::string(format::kHeldOutHidden) ? !of_last_samples : found.rows_left_out != 0) {
      throw wrong(
          fmt::format("{} has {} rows, its samples {} tokens", name, found.shape[0], first_row.back()));
    }
    datasets[name] = std::move(found);
  }

  bool exists(hid_t parent, const char* name) const {
    return check(H5Lexists(parent, name, H5P_DEFAULT), "look into") > 0;
  }

  Dataset dataset(hid_t parent, const char* name, DType dtype, std::size_t rank) const {
    if (!exists(parent, name)) throw wrong(fmt::format("it has no dataset {}", name));
    Dataset result{Hdf5Handle(check(H5Dopen2(parent, name, H5P_DEFAULT), "open a dataset of")), dtype, {}};
    const Hdf5Handle type(check(H5Dget_type(result.handle.get()), "read a dataset of"));
    const Hdf5Handle space(check(H5Dget_space(result.handle.get()), "read a dataset of"));
    std::array<hsize_t, H5S_MAX_RANK> extents{};
    const int found =
        check(H5Sget_simple_extent_dims(space.get(), extents.data(), nullptr), "read a dataset of");
    if (static_cast<std::size_t>(found) != rank || H5Tequal(type.get(), format::hdf5_type(dtype)) <= 0) {
      throw wrong(fmt::format("{} has another type or shape than this program writes", name));
    }
    result.shape.assign(extents.begin(), extents.begin() + found);
    return result;
  }

  template <typename T>
  std::vector<T> read_all(const Dataset& data) const {
    std::int64_t count = 1;
    for (const std::int64_t extent : data.shape) count *= extent;
    std::vector<T> values(static_cast<std::size_t>(count));
    if (count == 0) return values;
    check(H5Dread(data.handle.get(), format::hdf5_type(data.dtype), H5S_ALL, H5S_ALL, H5P_DEFAULT,
                  values.data()),
          "read");
    return values;
  }

  std::vector<std::int64_t> integers(const char* name) const {
    return read_all<std::int64_t>(dataset(file.get(), name, DType::i64, 1));
  }

  const Dataset& find(const std::string& name) const {
    const auto found = datasets.find(name);
    if (found == datasets.end()) throw wrong(fmt::format("it has no dataset {}", name));
    return found->second;
  }

  QuantizedLayer layer(hid_t parent, const char* module) const {
    const Hdf5Handle group(check(H5Gopen2(parent, module, H5P_DEFAULT), "open a layer of"));
    QuantizedLayer layer;
    layer.module = module;
    layer.bits = static_cast<int>(hdf5_integer_attribute(group.get(), "bits", path));
    const Dataset codes = dataset(group.get(), "codes", DType::u8, 2);
    const Dataset scales = dataset(group.get(), "scales", DType::f16, 2);
    const Dataset zeros = dataset(group.get(), "zeros", DType::u8, 2);
    const Dataset group_of = dataset(group.get(), "group_of", DType::i32, 1);
    layer.out_features = codes.shape[0];
    layer.in_features = codes.shape[1];
    layer.groups = scales.shape[1];
    if (scales.shape[0] != layer.out_features || zeros.shape != scales.shape ||
        group_of.shape[0] != layer.in_features) {
      throw wrong(fmt::format("the arrays of layer {} do not fit each other", module));
    }
    layer.codes = read_all<std::uint8_t>(codes);
    layer.scales = read_all<f16>(scales);
    layer.zeros = read_all<std::uint8_t>(zeros);
    layer.group_of = read_all<std::int32_t>(group_of);
    return layer;
  }
};

RankFile::RankFile(const fs::path& path) {
  const Hdf5Quiet quiet;
  auto state = std::make_unique<State>();  // a local one: if opening fails, its handles close under the lock
  try {
    state->open(path);
  } catch (const IoError& error) {
    throw InputError("{}", error.what());  // a file that cannot be read is as good as a damaged one
  }
  state_ = std::move(state);
}

RankFile::~RankFile() {
  const Hdf5Quiet quiet;
  state_.reset();
}

const RankFile::Header& RankFile::header() const {
  return state_->header;
}

const std::vector<std::int64_t>& RankFile::samples() const {
  return state_->samples;
}

const std::vector<std::int64_t>& RankFile::lengths() const {
  return state_->lengths;
}

const std::vector<std::int64_t>& RankFile::chunks_summed() const {
  return state_->chunks;
}

bool RankFile::has(const std::string& dataset) const {
  return state_->datasets.contains(dataset);
}

DType RankFile::dtype(const std::string& dataset) const {
  return state_->find(dataset).dtype;
}

std::int64_t RankFile::columns(const std::string& dataset) const {
  return state_->find(dataset).shape.back();
}

void RankFile::read_rows(const std::string& dataset, std::int64_t first, std::int64_t count,
                         const Matrix& target) const {
  if (count == 0) return;
  const Hdf5Quiet quiet;
  const State& s = *state_;
  const State::Dataset& data = s.find(dataset);
  const std::int64_t begin = s.samples.empty() ? 0 : first - s.samples.front();
  if (begin < 0 || begin + count > static_cast<std::int64_t>(s.samples.size())) {
    throw s.wrong(fmt::format("samples {} to {} are asked for, it has {}", first, first + count - 1,
                              s.samples.empty()
                                  ? std::string("none")
                                  : fmt::format("{} to {}", s.samples.front(), s.samples.back())));
  }
  const std::int64_t row = s.first_row[static_cast<std::size_t>(begin)];
  const std::int64_t rows = s.first_row[static_cast<std::size_t>(begin + count)] - row;
  if (data.dtype != target.dtype || data.shape[1] != target.cols || rows != target.rows) {
    throw s.wrong(fmt::format("samples {} to {} of {} are {} x {} {}, but {} x {} {} is expected", first,
                              first + count - 1, dataset, rows, data.shape[1], name_of(data.dtype),
                              target.rows, target.cols, name_of(target.dtype)));
  }
  if (rows == 0 || target.cols == 0) return;
  if (row < data.rows_left_out) throw s.wrong(fmt::format("{} has no rows of sample {}", dataset, first));
  const auto extent = [](std::int64_t r, std::int64_t c) {
    return std::array{static_cast<hsize_t>(r), static_cast<hsize_t>(c)};
  };
  const auto box = extent(rows, target.cols);
  const auto start = extent(row - data.rows_left_out, 0);
  const auto origin = extent(0, 0);
  const auto around = extent(rows, target.stride);
  const Hdf5Handle space(s.check(H5Dget_space(data.handle.get()), "read"));
  s.check(H5Sselect_hyperslab(space.get(), H5S_SELECT_SET, start.data(), nullptr, box.data(), nullptr),
          "read");
  const Hdf5Handle memory(s.check(H5Screate_simple(2, around.data(), nullptr), "read"));
  s.check(H5Sselect_hyperslab(memory.get(), H5S_SELECT_SET, origin.data(), nullptr, box.data(), nullptr),
          "read");
  s.check(H5Dread(data.handle.get(), format::hdf5_type(data.dtype), memory.get(), space.get(), H5P_DEFAULT,
                  target.data),
          "read");
}

void RankFile::add_sum(const std::string& dataset, std::span<std::int64_t> panels) const {
  constexpr std::size_t kPiece = 1 << 20;  // entries
  const Hdf5Quiet quiet;
  const State& s = *state_;
  const State::Dataset& data = s.find(dataset);
  if (data.shape[0] != static_cast<std::int64_t>(panels.size())) {
    throw s.wrong(
        fmt::format("its {} has {} entries, {} are expected", dataset, data.shape[0], panels.size()));
  }
  std::vector<std::int64_t> piece(std::min(kPiece, panels.size()));
  const Hdf5Handle space(s.check(H5Dget_space(data.handle.get()), "read"));
  for (std::size_t first = 0; first < panels.size(); first += kPiece) {
    const hsize_t start = first;
    const hsize_t count = std::min(kPiece, panels.size() - first);
    s.check(H5Sselect_hyperslab(space.get(), H5S_SELECT_SET, &start, nullptr, &count, nullptr), "read");
    const Hdf5Handle memory(s.check(H5Screate_simple(1, &count, nullptr), "read"));
    s.check(
        H5Dread(data.handle.get(), H5T_NATIVE_INT64, memory.get(), space.get(), H5P_DEFAULT, piece.data()),
        "read");
    for (std::size_t i = 0; i < count; ++i) panels[first + i] += piece[i];
  }
}

std::vector<QuantizedLayer> RankFile::layers() const {
  const Hdf5Quiet quiet;
  const State& s = *state_;
  std::vector<QuantizedLayer> layers;
  if (!s.exists(s.file.get(), "layers")) return layers;
  const Hdf5Handle group(s.check(H5Gopen2(s.file.get(), "layers", H5P_DEFAULT), "open the layers of"));
  H5G_info_t info{};
  s.check(H5Gget_info(group.get(), &info), "open the layers of");
  for (hsize_t i = 0; i < info.nlinks; ++i) {
    const auto name_at = [&](char* buffer, std::size_t size) {
      return s.check(
          H5Lget_name_by_idx(group.get(), ".", H5_INDEX_CRT_ORDER, H5_ITER_INC, i, buffer, size, H5P_DEFAULT),
          "open the layers of");
    };
    std::string module(static_cast<std::size_t>(name_at(nullptr, 0)) + 1, '\0');
    name_at(module.data(), module.size());
    module.pop_back();
    layers.push_back(s.layer(group.get(), module.c_str()));
  }
  return layers;
}

}  // namespace gptq

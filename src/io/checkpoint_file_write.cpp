#include <algorithm>

#include "io/checkpoint_file.h"
#include "io/checkpoint_format.h"
#include "io/checkpoint_regions.h"

namespace gptq {
namespace {

namespace fs = std::filesystem;
namespace format = checkpoint_format;

/// A rank file in the making: HDF5 lays out the file, our own writes fill its data sets. So no array is
/// copied, the room is claimed before anything long is written, and a full disk is reported in plain words.
class RankFileLayout {
 public:
  RankFileLayout(const fs::path& path, const RankState& state)
      : path_(path.string()), file_(hdf5_create(path)) {
    describe(state);
    add_activations(state);
    if (!state.sum.empty()) {
      add_array("sum", DType::i64, state.sum.data(), state.sum.size());
      add_array("sum_chunks", DType::i64, state.chunks_summed.data(), state.chunks_summed.size());
      if (!state.cross.empty()) add_array("cross", DType::i64, state.cross.data(), state.cross.size());
    }
    if (state.layers != nullptr && !state.layers->empty()) add_layers(*state.layers);
    check(H5Fflush(file_.get(), H5F_SCOPE_LOCAL), "write");
    file_.close(path_);
  }

  /// Where each data set lies, with its memory; ascending.
  std::vector<FileRegion> take_regions() && {
    std::sort(regions_.begin(), regions_.end(),
              [](const FileRegion& a, const FileRegion& b) { return a.offset() < b.offset(); });
    return std::move(regions_);
  }

 private:
  template <typename T>
  T check(T result, const char* what) const {
    return hdf5_check(result, what, path_);
  }

  void describe(const RankState& state) {
    hdf5_write_attribute(file_.get(), "format", std::string(format::kFormat), path_);
    hdf5_write_attribute(file_.get(), "version", format::kVersion, path_);
    hdf5_write_attribute(file_.get(), "generation", state.generation, path_);
    hdf5_write_attribute(file_.get(), "rank", std::int64_t{state.rank}, path_);
    hdf5_write_attribute(file_.get(), "block", state.block, path_);
    hdf5_write_attribute(file_.get(), "group", state.group, path_);
  }

  void add_activations(const RankState& state) {
    GPTQ_EXPECT(state.samples.size() == state.lengths.size());
    std::int64_t tokens = 0;
    for (const std::int64_t length : state.lengths) tokens += length;
    add_array("samples", DType::i64, state.samples.data(), state.samples.size());
    add_array("lengths", DType::i64, state.lengths.data(), state.lengths.size());
    GPTQ_EXPECT(state.hidden.rows == tokens);
    add_activation("hidden", state.hidden);
    for (const auto& [name, matrix] :
         {std::pair("x", state.x), std::pair("hidden_before", state.hidden_before),
          std::pair("reference_hidden", state.reference_hidden),
          std::pair("reference_x", state.reference_x)}) {
      const bool empty = matrix.rows == 0 && matrix.cols > 0;  // a rank without samples
      if (matrix.data == nullptr && !empty) continue;
      GPTQ_EXPECT(matrix.rows == tokens);
      add_activation(name, matrix);
    }
    const Matrix& held_out = state.held_out_hidden;
    GPTQ_EXPECT(held_out.rows <= tokens);
    if (held_out.cols > 0) add_activation(format::kHeldOutHidden, held_out);
  }

  void add_activation(const char* name, const Matrix& matrix) {
    const Hdf5Handle data = add(file_.get(), name, {matrix.rows, matrix.cols}, matrix);
    hdf5_write_attribute(data.get(), format::kDType, std::string(name_of(matrix.dtype)), path_);
  }

  void add_layers(const std::vector<QuantizedLayer>& layers) {
    const Hdf5Handle all = add_group(file_.get(), "layers");
    for (const QuantizedLayer& layer : layers) {
      const Hdf5Handle group = add_group(all.get(), layer.module.c_str());
      hdf5_write_attribute(group.get(), "bits", std::int64_t{layer.bits}, path_);
      const std::int64_t out = layer.out_features;
      add_matrix(group.get(), layer.module + "/codes", DType::u8, layer.codes, {out, layer.in_features});
      add_matrix(group.get(), layer.module + "/scales", DType::f16, layer.scales, {out, layer.groups});
      add_matrix(group.get(), layer.module + "/zeros", DType::u8, layer.zeros, {out, layer.groups});
      add_matrix(group.get(), layer.module + "/group_of", DType::i32, layer.group_of, {layer.in_features});
    }
  }

  /// Members keep the order in which they were made: a block's layers are read back as they were written.
  Hdf5Handle add_group(hid_t parent, const char* name) {
    const Hdf5Handle options(check(H5Pcreate(H5P_GROUP_CREATE), "lay out"));
    check(H5Pset_link_creation_order(options.get(), H5P_CRT_ORDER_TRACKED | H5P_CRT_ORDER_INDEXED),
          "lay out");
    check(H5Pset_obj_track_times(options.get(), false), "lay out");
    return Hdf5Handle(check(H5Gcreate2(parent, name, H5P_DEFAULT, options.get(), H5P_DEFAULT), "lay out"));
  }

  template <typename T>
  void add_matrix(hid_t group, const std::string& name, DType dtype, const std::vector<T>& values,
                  const std::vector<std::int64_t>& shape) {
    const auto count = static_cast<std::int64_t>(values.size());
    GPTQ_EXPECT(count == shape.front() * (shape.size() > 1 ? shape.back() : 1));
    add(group, name, shape, {const_cast<T*>(values.data()), dtype, 1, count, count});
  }

  void add_array(const char* name, DType dtype, const void* data, std::size_t count) {
    const auto columns = static_cast<std::int64_t>(count);
    add(file_.get(), name, {columns}, {const_cast<void*>(data), dtype, 1, columns, columns});
  }

  /// A contiguous data set whose room is set aside but not filled.
  Hdf5Handle add(hid_t parent, const std::string& name, const std::vector<std::int64_t>& shape,
                 const Matrix& memory) {
    const std::string link = name.substr(name.rfind('/') + 1);
    const std::vector<hsize_t> extents(shape.begin(), shape.end());
    const Hdf5Handle space(
        check(H5Screate_simple(static_cast<int>(extents.size()), extents.data(), nullptr), "lay out"));
    const Hdf5Handle options(check(H5Pcreate(H5P_DATASET_CREATE), "lay out"));
    check(H5Pset_layout(options.get(), H5D_CONTIGUOUS), "lay out");
    check(H5Pset_alloc_time(options.get(), H5D_ALLOC_TIME_EARLY), "lay out");
    check(H5Pset_fill_time(options.get(), H5D_FILL_TIME_NEVER), "lay out");
    check(H5Pset_obj_track_times(options.get(), false), "lay out");
    Hdf5Handle data(check(H5Dcreate2(parent, link.c_str(), format::hdf5_type(memory.dtype), space.get(),
                                     H5P_DEFAULT, options.get(), H5P_DEFAULT),
                          "lay out"));
    if (memory.rows * memory.cols > 0) {
      const haddr_t offset = H5Dget_offset(data.get());
      GPTQ_EXPECT(offset != HADDR_UNDEF);
      regions_.emplace_back(name, offset, memory);
    }
    return data;
  }

  std::string path_;
  Hdf5Handle file_;
  std::vector<FileRegion> regions_;
};

std::vector<FileRegion> lay_out(const fs::path& path, const RankState& state) {
  // First by ourselves: reasons like a missing directory are then told in plain words.
  File::create(path).close();
  const Hdf5Quiet quiet;
  return RankFileLayout(path, state).take_regions();
}

/// Adds what lies between the data sets, HDF5's own description of the file, as read now: still in the
/// kernel's memory.
std::vector<FileRegion> with_gaps(const File& file, std::vector<FileRegion> regions) {
  const std::uint64_t size = file.size();
  std::vector<FileRegion> all;
  std::uint64_t place = 0;
  const auto add_gap = [&](std::uint64_t end) {
    GPTQ_EXPECT(place <= end);
    if (place == end) return;
    std::vector<std::byte> content(end - place);
    file.read_at(content.data(), content.size(), place);
    all.emplace_back("HDF5's structure", place, std::move(content));
  };
  for (FileRegion& region : regions) {
    add_gap(region.offset());
    place = region.end();
    all.push_back(std::move(region));
  }
  add_gap(size);
  return all;
}

WrittenFile write_and_check(const fs::path& partial, const RankState& state) {
  std::vector<FileRegion> data = lay_out(partial, state);
  File file = File::edit(partial);
  const std::uint64_t bytes = file.size();
  file.reserve(bytes);
  const std::vector<FileRegion> regions = with_gaps(file, std::move(data));
  for (const FileRegion& region : regions) write_region(file, region);
  file.sync();
  file.drop_from_cache();
  std::string sha256 = hash_and_compare(file, partial, regions);
  file.drop_from_cache();  // the job's own memory matters more than a copy nobody may ever read
  file.close();
  return {bytes, std::move(sha256)};
}

}  // namespace

WrittenFile write_rank_file(const fs::path& path, const RankState& state) {
  fs::path partial = path;
  partial += ".partial";
  try {
    WrittenFile written = write_and_check(partial, state);
    publish_file(partial, path);
    return written;
  } catch (...) {
    std::error_code ignored;
    fs::remove(partial, ignored);  // its room may be what is missing
    throw;
  }
}

}  // namespace gptq

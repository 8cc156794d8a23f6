#include <algorithm>
#include <functional>
#include <map>

#include "base/file.h"
#include "io/checkpoint_file.h"
#include "io/checkpoint_format.h"

namespace gptq {
namespace {

namespace fs = std::filesystem;
namespace format = checkpoint_format;

struct Column {
  DType dtype = DType::f32;
  std::int64_t width = 0;

  bool operator==(const Column&) const = default;
};

/// What a view needs to know of one rank file.
struct Part {
  std::string name;  ///< without directory: a view finds its sources beside itself
  std::int64_t samples = 0;
  std::int64_t first_sample = 0;
  std::int64_t tokens = 0;
  std::map<std::string, Column> columns;
};

class ViewFile {
 public:
  ViewFile(const fs::path& path, std::vector<Part> parts)
      : path_(path.string()), parts_(std::move(parts)), file_(hdf5_create(path)) {
    hdf5_write_attribute(file_.get(), "format", std::string(format::kViewFormat), path_);
    hdf5_write_attribute(file_.get(), "version", format::kVersion, path_);
  }

  void add_list(const char* name) {
    add(name, DType::i64, 0, [](const Part& part) { return part.samples; });
  }

  void add_activation(const char* name, DType dtype, std::int64_t columns) {
    const Hdf5Handle data = add(name, dtype, columns, [](const Part& part) { return part.tokens; });
    hdf5_write_attribute(data.get(), format::kDType, std::string(name_of(dtype)), path_);
  }

  void close() { file_.close(path_); }

 private:
  template <typename T>
  T check(T result) const {
    return hdf5_check(result, "write", path_);
  }

  /// columns 0: a list.
  Hdf5Handle space(std::int64_t rows, std::int64_t columns) const {
    const hsize_t extents[] = {static_cast<hsize_t>(rows), static_cast<hsize_t>(columns)};
    return Hdf5Handle(check(H5Screate_simple(columns == 0 ? 1 : 2, extents, nullptr)));
  }

  Hdf5Handle add(const char* name, DType dtype, std::int64_t columns,
                 const std::function<std::int64_t(const Part&)>& rows_of) {
    std::int64_t rows = 0;
    for (const Part& part : parts_) rows += rows_of(part);
    const Hdf5Handle whole = space(rows, columns);
    const Hdf5Handle options(check(H5Pcreate(H5P_DATASET_CREATE)));
    check(H5Pset_obj_track_times(options.get(), false));
    hsize_t start[] = {0, 0};
    for (const Part& part : parts_) {
      const hsize_t count[] = {static_cast<hsize_t>(rows_of(part)), static_cast<hsize_t>(columns)};
      if (count[0] == 0) continue;
      const Hdf5Handle source = space(rows_of(part), columns);
      check(H5Sselect_hyperslab(whole.get(), H5S_SELECT_SET, start, nullptr, count, nullptr));
      check(H5Pset_virtual(options.get(), whole.get(), part.name.c_str(), name, source.get()));
      start[0] += count[0];
    }
    check(H5Sselect_all(whole.get()));
    return Hdf5Handle(check(H5Dcreate2(file_.get(), name, format::hdf5_type(dtype), whole.get(), H5P_DEFAULT,
                                       options.get(), H5P_DEFAULT)));
  }

  std::string path_;
  std::vector<Part> parts_;
  Hdf5Handle file_;
};

Part read_part(const fs::path& path) {
  const RankFile file(path);
  Part part{path.filename().string(), static_cast<std::int64_t>(file.samples().size()), 0, 0, {}};
  if (part.samples > 0) part.first_sample = file.samples().front();
  for (const std::int64_t length : file.lengths()) part.tokens += length;
  for (const char* name : checkpoint_format::kActivations) {
    if (file.has(name)) part.columns[name] = {file.dtype(name), file.columns(name)};
  }
  return part;
}

/// The activations that every file with samples has, with the type and width they have everywhere.
std::map<std::string, Column> common_columns(const std::vector<Part>& parts) {
  const auto filled =
      std::find_if(parts.begin(), parts.end(), [](const Part& part) { return part.tokens > 0; });
  if (filled == parts.end()) return parts.empty() ? std::map<std::string, Column>() : parts[0].columns;
  std::map<std::string, Column> columns = filled->columns;
  for (const Part& part : parts) {
    if (part.tokens == 0) continue;
    std::erase_if(columns, [&](const auto& column) { return !part.columns.contains(column.first); });
    for (const auto& [name, column] : columns) {
      if (part.columns.at(name) == column) continue;
      throw InputError("{} and {} do not belong together: {} has another type or width", parts[0].name,
                       part.name, name);
    }
  }
  return columns;
}

void write_views(const fs::path& partial, const std::vector<fs::path>& paths) {
  std::vector<Part> parts;
  for (const fs::path& path : paths) parts.push_back(read_part(path));
  const std::map<std::string, Column> columns = common_columns(parts);
  std::sort(parts.begin(), parts.end(),
            [](const Part& a, const Part& b) { return a.first_sample < b.first_sample; });
  const Hdf5Quiet quiet;
  ViewFile view(partial, std::move(parts));
  view.add_list("samples");
  view.add_list("lengths");
  for (const auto& [name, column] : columns) view.add_activation(name.c_str(), column.dtype, column.width);
  view.close();
}

}  // namespace

void write_view_file(const fs::path& path, const std::vector<fs::path>& rank_files) {
  fs::path partial = path;
  partial += ".partial";
  try {
    File::create(partial).close();
    write_views(partial, rank_files);
    File file = File::edit(partial);
    file.sync();
    file.close();
    publish_file(partial, path);
  } catch (...) {
    std::error_code ignored;
    fs::remove(partial, ignored);
    throw;
  }
}

}  // namespace gptq

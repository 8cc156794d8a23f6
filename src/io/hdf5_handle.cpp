#include "io/hdf5_handle.h"

#include "base/log.h"

namespace gptq {
namespace {

// Everything is closed by its handle. The library's own tidying at exit would stumble over a file whose closing failed,
// on a full disk for instance, and end a finished job with a segmentation fault.
const herr_t kNoTidyingAtExit = H5dont_atexit();

herr_t close_any(hid_t id) {
  switch (H5Iget_type(id)) {
    case H5I_FILE:
      return H5Fclose(id);
    case H5I_DATASET:
      return H5Dclose(id);
    case H5I_DATASPACE:
      return H5Sclose(id);
    case H5I_DATATYPE:
      return H5Tclose(id);
    case H5I_ATTR:
      return H5Aclose(id);
    case H5I_GROUP:
      return H5Gclose(id);
    case H5I_GENPROP_LST:
      return H5Pclose(id);
    default:
      return H5Idec_ref(id);
  }
}

Hdf5Handle access_without_locks(const std::string& path) {
  Hdf5Handle access(hdf5_check(H5Pcreate(H5P_FILE_ACCESS), "prepare to open", path));
  hdf5_check(H5Pset_file_locking(access.get(), false, true), "prepare to open", path);
  return access;
}

void write_scalar(hid_t object, const char* name, hid_t type, const void* value, const std::string& path) {
  const Hdf5Handle space(hdf5_check(H5Screate(H5S_SCALAR), "describe", path));
  const Hdf5Handle attribute(hdf5_check(H5Acreate2(object, name, type, space.get(), H5P_DEFAULT, H5P_DEFAULT),
                                        "make an attribute of", path));
  hdf5_check(H5Awrite(attribute.get(), type, value), "write an attribute of", path);
}

Hdf5Handle open_scalar(hid_t object, const char* name, H5T_class_t type_class, const std::string& path) {
  if (H5Aexists(object, name) <= 0) throw InputError("{} has no attribute '{}'", path, name);
  Hdf5Handle attribute(hdf5_check(H5Aopen(object, name, H5P_DEFAULT), "read an attribute of", path));
  const Hdf5Handle type(hdf5_check(H5Aget_type(attribute.get()), "read an attribute of", path));
  const Hdf5Handle space(hdf5_check(H5Aget_space(attribute.get()), "read an attribute of", path));
  const bool fits = H5Tget_class(type.get()) == type_class && H5Sget_simple_extent_npoints(space.get()) == 1;
  if (!fits || (type_class == H5T_STRING && H5Tis_variable_str(type.get()) != 0)) {
    throw InputError("{}: attribute '{}' has another type than this program writes", path, name);
  }
  return attribute;
}

}  // namespace

std::recursive_mutex& Hdf5Quiet::mutex() {
  static std::recursive_mutex one;
  return one;
}

std::string hdf5_reason() {
  std::string reason;
  const auto keep_last = [](unsigned, const H5E_error2_t* entry, void* out) -> herr_t {
    if (entry->desc != nullptr && *entry->desc != '\0') *static_cast<std::string*>(out) = entry->desc;
    return 0;
  };
  // Downward: from the call we made to the one where it went wrong.
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_DOWNWARD, keep_last, &reason);
  H5Eclear2(H5E_DEFAULT);
  return reason.empty() ? "HDF5 gives no reason" : reason;
}

Hdf5Handle::~Hdf5Handle() {
  if (id_ < 0) return;
  if (close_any(id_) < 0) log::warn("an HDF5 object could not be closed: {}", hdf5_reason());
}

void Hdf5Handle::close(const std::string& path) {
  if (id_ < 0) return;
  hdf5_check(close_any(std::exchange(id_, H5I_INVALID_HID)), "close", path);
}

Hdf5Handle hdf5_open(const std::filesystem::path& path) {
  const Hdf5Handle access = access_without_locks(path.string());
  return Hdf5Handle(hdf5_check(H5Fopen(path.c_str(), H5F_ACC_RDONLY, access.get()), "open", path.string()));
}

Hdf5Handle hdf5_create(const std::filesystem::path& path) {
  constexpr hsize_t kAlignFrom = 65536;
  constexpr hsize_t kAlignment = 4096;
  const Hdf5Handle access = access_without_locks(path.string());
  hdf5_check(H5Pset_alignment(access.get(), kAlignFrom, kAlignment), "prepare to make", path.string());
  return Hdf5Handle(
      hdf5_check(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, access.get()), "make", path.string()));
}

void hdf5_write_attribute(hid_t object, const char* name, std::int64_t value, const std::string& path) {
  write_scalar(object, name, H5T_NATIVE_INT64, &value, path);
}

void hdf5_write_attribute(hid_t object, const char* name, const std::string& value, const std::string& path) {
  const Hdf5Handle type(hdf5_check(H5Tcopy(H5T_C_S1), "describe", path));
  hdf5_check(H5Tset_size(type.get(), value.size() + 1), "describe", path);
  hdf5_check(H5Tset_cset(type.get(), H5T_CSET_UTF8), "describe", path);
  write_scalar(object, name, type.get(), value.c_str(), path);
}

std::int64_t hdf5_integer_attribute(hid_t object, const char* name, const std::string& path) {
  const Hdf5Handle attribute = open_scalar(object, name, H5T_INTEGER, path);
  std::int64_t value = 0;
  hdf5_check(H5Aread(attribute.get(), H5T_NATIVE_INT64, &value), "read an attribute of", path);
  return value;
}

std::string hdf5_text_attribute(hid_t object, const char* name, const std::string& path) {
  const Hdf5Handle attribute = open_scalar(object, name, H5T_STRING, path);
  const Hdf5Handle type(hdf5_check(H5Aget_type(attribute.get()), "read an attribute of", path));
  std::string value(H5Tget_size(type.get()), '\0');
  hdf5_check(H5Aread(attribute.get(), type.get(), value.data()), "read an attribute of", path);
  return value.substr(0, value.find('\0'));
}

}  // namespace gptq

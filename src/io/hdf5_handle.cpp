#include "io/hdf5_handle.h"

#include "base/log.h"

namespace gptq {

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
  herr_t result = 0;
  switch (H5Iget_type(id_)) {
    case H5I_FILE:
      result = H5Fclose(id_);
      break;
    case H5I_DATASET:
      result = H5Dclose(id_);
      break;
    case H5I_DATASPACE:
      result = H5Sclose(id_);
      break;
    case H5I_DATATYPE:
      result = H5Tclose(id_);
      break;
    case H5I_ATTR:
      result = H5Aclose(id_);
      break;
    case H5I_GROUP:
      result = H5Gclose(id_);
      break;
    case H5I_GENPROP_LST:
      result = H5Pclose(id_);
      break;
    default:
      result = H5Idec_ref(id_);
      break;
  }
  if (result < 0) log::warn("an HDF5 object could not be closed: {}", hdf5_reason());
}

}  // namespace gptq

#pragma once

#include <string>
#include <string_view>

namespace gptq {

/// A name that another quantization program uses for an option, or that this one used to. Such names are
/// never accepted: a job file says one thing in one way.
struct ForeignName {
  std::string_view name;
  std::string_view key;   ///< ours, if there is one
  std::string_view note;  ///< what to do where there is none, or what to mind
};

/// Compared without case and with '-' taken for '_'; null if no program has it.
const ForeignName* find_foreign_name(const std::string& name);

}  // namespace gptq

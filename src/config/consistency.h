#pragma once

#include <functional>
#include <string>
#include <vector>

#include "config/job_config.h"

namespace gptq {

/// Two values of the quantization section that were both asked for and exclude each other.
struct Conflict {
  std::string key;    ///< the one to blame, without its section
  std::string value;  ///< its value; empty where the reason says it all
  std::string other;  ///< the key that it does not go with
  std::string other_value;
  std::string advice;  ///< why, and what to do

  /// "cannot be true together with desc_act: true (job.yaml:3:5); set one of them to false". place: where
  /// `other` was given; empty: not told.
  std::string message(const std::string& place) const;
};

/// Gives the keys that `quality` bundles their values, where they were not asked for: default corrects for
/// errors of earlier layers, best also rotates and refines.
void apply_quality(QuantizationSection& section, const std::function<bool(const std::string&)>& given);

/// Values that were not given make way for given ones that exclude them; what remains is returned. given:
/// whether a key (without its section) was asked for; the others hold defaults, or what a whole job says
/// where a single layer says something else.
std::vector<Conflict> make_consistent(QuantizationSection& section,
                                      const std::function<bool(const std::string&)>& given);

}  // namespace gptq

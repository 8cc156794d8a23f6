#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <set>

#include "base/error.h"
#include "config/key_value.h"
#include "config/nearest.h"
#include "config/yaml_document.h"
#include "pipeline/machine.h"

namespace gptq {
namespace {

/// A key of a section: how its value is taken, and written again.
struct Entry {
  std::string name;
  bool required;
  std::function<std::string(const RawValue&)> set;  ///< what is wrong with the value; empty: nothing
  std::function<std::string()> text;                ///< empty: left out
};

std::string number_text(double value) {
  return fmt::format("{:.4g}", value);
}

std::string quantity_text(double value, const std::string& dimension) {
  struct Unit {
    double factor;
    const char* name;
  };
  static const std::vector<Unit> bytes{{1e12, "TB"}, {1e9, "GB"}, {1e6, "MB"}, {1e3, "kB"}, {1, "B"}};
  static const std::vector<Unit> seconds{{1, "s"}, {1e-3, "ms"}, {1e-6, "us"}, {1e-9, "ns"}};
  for (const Unit& unit : dimension == "s" ? seconds : bytes) {
    if (value < 0.9999 * unit.factor) continue;
    return number_text(value / unit.factor) + " " + unit.name + (dimension == "bytes/s" ? "/s" : "");
  }
  return dimension == "s" ? "0 s" : dimension == "bytes" ? "0 B" : "0 B/s";
}

std::optional<double> number_of(const RawValue& value) {
  if (value.kind != RawValue::Kind::scalar) return std::nullopt;
  try {
    std::size_t used = 0;
    const double number = std::stod(value.text, &used);
    if (used == value.text.size() && std::isfinite(number)) return number;
  } catch (const std::exception&) {
  }
  return std::nullopt;
}

Entry text_entry(std::string name, bool required, std::string& member) {
  return {std::move(name), required,
          [&member](const RawValue& value) {
            if (value.kind != RawValue::Kind::scalar || value.text.empty()) return "must be a text";
            member = value.text;
            return "";
          },
          [&member] { return member.empty() ? "" : quote_yaml(member); }};
}

Entry count_entry(std::string name, int& member) {
  return {std::move(name), true,
          [&member](const RawValue& value) {
            const auto number = number_of(value);
            if (!number || *number < 1 || *number > 1e6 || *number != std::floor(*number))
              return "must be a whole number from 1";
            member = static_cast<int>(*number);
            return "";
          },
          [&member] { return std::to_string(member); }};
}

/// Target: double or std::int64_t.
template <typename Target>
Entry quantity_entry(std::string name, bool required, const std::string& dimension, bool positive,
                     Target& member) {
  return {std::move(name), required,
          [=, &member](const RawValue& value) -> std::string {
            const char* example = dimension == "s" ? "2 us" : dimension == "bytes" ? "80 GB" : "25 GB/s";
            if (value.kind == RawValue::Kind::scalar) {
              const auto number = parse_quantity(value.text, dimension);
              if (number && (*number > 0 || (*number == 0 && !positive))) {
                member = static_cast<Target>(*number);
                return "";
              }
            }
            return fmt::format("must be a{} number with a unit, as in '{}'", positive ? " positive" : "",
                               example);
          },
          [=, &member]() -> std::string {
            if (!required && member == 0) return "";
            return quantity_text(static_cast<double>(member), dimension);
          }};
}

std::string set_points(const RawValue& value, std::vector<RatePoint>& points) {
  const std::string form =
      "must be a list of [work, rate] with ascending work, as in [[1e9, 3e11], [1e11, 4e11]]";
  if (value.kind != RawValue::Kind::list || value.items.empty()) return form;
  for (const RawValue& item : value.items) {
    if (item.kind != RawValue::Kind::list || item.items.size() != 2) return form;
    const auto work = number_of(item.items[0]), rate = number_of(item.items[1]);
    if (!work || !rate || *work <= 0 || *rate <= 0) return form;
    if (!points.empty() && *work <= points.back().work) return form;
    points.push_back({*work, *rate});
  }
  return "";
}

std::string set_together(const RawValue& value, std::vector<double>& together) {
  const char* form = "must be a list of parts in (0, 1] that starts with 1, as in [1.0, 0.93]";
  together.clear();
  for (const RawValue& item : value.items) {
    const auto number = number_of(item);
    if (!number || *number <= 0 || *number > 1) return form;
    together.push_back(*number);
  }
  return value.kind == RawValue::Kind::list && !together.empty() && together[0] == 1 ? "" : form;
}

std::string points_text(const std::vector<RatePoint>& points) {
  std::vector<std::string> texts;
  for (const RatePoint& point : points)
    texts.push_back(
        fmt::format("[{}, {}]", point.work, number_text(point.rate)));  // works must not fall together
  return fmt::format("[{}]", fmt::join(texts, ", "));
}

struct MachineSection {
  std::string name;  ///< empty: the document's own keys
  bool required;
  std::vector<Entry> entries;
};

std::vector<Entry> link_entries(LinkRates& link) {
  return {quantity_entry("latency", true, "s", false, link.latency),
          quantity_entry("bandwidth", true, "bytes/s", true, link.bandwidth),
          quantity_entry("shared", true, "bytes/s", true, link.shared),
          quantity_entry("reduce", false, "bytes/s", true, link.reduce)};
}

/// Every key there is. Links are sections of their own: links.node and links.fabric.
std::vector<MachineSection> sections_of(Machine& m) {
  Machine::Measured& measured = m.measured.emplace(m.measured.value_or(Machine::Measured()));
  std::vector<Entry> kernels;
  for (const KernelName& kernel : kernel_names()) {
    std::vector<RatePoint>& points = m.kernels[kernel.name];
    kernels.push_back({kernel.name, false,
                       [&points](const RawValue& value) { return set_points(value, points); },
                       [&points] { return points.empty() ? "" : points_text(points); }});
  }
  return {
      {"",
       true,
       {text_entry("name", true, m.name),
        text_entry("source", false, m.source),
        {"together", false, [&m](const RawValue& value) { return set_together(value, m.together); },
         [&m] { return fmt::format("[{:.4g}]", fmt::join(m.together, ", ")); }},
        quantity_entry("startup", true, "s", false, m.startup)}},
      {"node",
       true,
       {count_entry("ranks", m.node.ranks), count_entry("cores", m.node.cores),
        quantity_entry("memory", true, "bytes", true, m.node.memory)}},
      {"device",
       true,
       {text_entry("kind", true, m.device.kind),
        quantity_entry("memory", false, "bytes", true, m.device.memory),
        quantity_entry("driver", false, "bytes", false, m.device.driver),
        quantity_entry("collectives", false, "bytes", false, m.device.collectives),
        quantity_entry("copy", false, "bytes/s", true, m.device.copy)}},
      {"kernels", true, std::move(kernels)},
      {"links.node", true, link_entries(m.link)},
      {"links.fabric", false, link_entries(m.fabric)},
      {"files",
       true,
       {quantity_entry("open", true, "s", false, m.files.open),
        quantity_entry("node", true, "bytes/s", true, m.files.node),
        quantity_entry("all", true, "bytes/s", true, m.files.all),
        quantity_entry("write_node", true, "bytes/s", true, m.files.write_node),
        quantity_entry("write_all", true, "bytes/s", true, m.files.write_all),
        quantity_entry("cached", true, "bytes/s", true, m.files.cached)}},
      {"measured",
       false,
       {text_entry("by", true, measured.by), text_entry("version", true, measured.version),
        text_entry("date", true, measured.date)}},
  };
}

class MachineReader {
 public:
  explicit MachineReader(std::string path) : path_(std::move(path)), sections_(sections_of(machine_)) {}

  Machine read() {
    const std::vector<RawEntry> document =
        read_document(path_, mistakes_, {"machine description", "configs/machines/"});
    if (mistakes_.empty()) {
      for (const RawEntry& entry : document) read_top(entry);
      check_complete();
    }
    if (!mistakes_.empty()) {
      std::string text = fmt::format("the machine description has {} mistake(s):", mistakes_.size());
      for (const Mistake& mistake : mistakes_) text += "\n" + mistake.line();
      throw UsageError("{}", text);
    }
    if (!given_.contains("measured")) machine_.measured.reset();
    std::erase_if(machine_.kernels, [](const auto& kernel) { return kernel.second.empty(); });
    return machine_;
  }

 private:
  void mistake(const std::string& place, const std::string& key, const std::string& what) {
    mistakes_.push_back({place, key, what});
  }

  const MachineSection* section(const std::string& name) const {
    const auto found = std::find_if(sections_.begin(), sections_.end(),
                                    [&](const MachineSection& each) { return each.name == name; });
    return found == sections_.end() ? nullptr : &*found;
  }

  void read_top(const RawEntry& entry) {
    if (entry.name == "links") {
      if (entry.value.kind != RawValue::Kind::map)
        return mistake(entry.value.place, "links", "must be a map");
      for (const RawEntry& link : entry.value.entries) read_section("links." + link.name, link);
    } else if (section(entry.name) != nullptr && !entry.name.empty()) {
      read_section(entry.name, entry);
    } else {
      read_entry(sections_[0], entry);
    }
  }

  void read_section(const std::string& name, const RawEntry& entry) {
    const MachineSection* known = section(name);
    if (known == nullptr) return mistake(entry.place, name, "unknown link; valid: links.node, links.fabric");
    if (!given_.insert(name).second) return mistake(entry.place, name, "is given twice; keep one");
    if (entry.value.kind != RawValue::Kind::map)
      return mistake(entry.value.place, name, "must be a map: write its keys indented below it");
    for (const RawEntry& key : entry.value.entries) read_entry(*known, key);
  }

  static std::string path_of(const MachineSection& section, const std::string& key) {
    return section.name.empty() ? key : section.name + "." + key;
  }

  void read_entry(const MachineSection& section, const RawEntry& entry) {
    const std::string path = path_of(section, entry.name);
    std::vector<std::string> names;
    for (const Entry& known : section.entries) names.push_back(known.name);
    if (section.name.empty())
      for (const char* name : {"node", "device", "kernels", "links", "files", "measured"})
        names.push_back(name);
    const auto found = std::find_if(section.entries.begin(), section.entries.end(),
                                    [&](const Entry& known) { return known.name == entry.name; });
    if (found == section.entries.end())
      return mistake(entry.place, path, "unknown key" + nearest_hint("valid key", entry.name, names));
    if (!given_.insert(path).second) return mistake(entry.place, path, "is given twice; keep one");
    if (const std::string wrong = found->set(entry.value); !wrong.empty())
      mistake(entry.value.place, path, wrong);
  }

  void check_complete() {
    for (const MachineSection& section : sections_) {
      const bool there = section.name.empty() || given_.contains(section.name);
      if (!there && section.required) mistake(path_, section.name, "is required");
      if (!there) continue;
      for (const Entry& entry : section.entries) {
        const std::string path = path_of(section, entry.name);
        if (entry.required && !given_.contains(path)) mistake(path_, path, "is required");
      }
    }
    if (!given_.contains("measured") && machine_.source.empty()) {
      mistake(
          path_, "source",
          "is required where nothing was measured: say where the figures come from (a data sheet's name)");
    }
    if (machine_.device.kind != "cpu" && machine_.device.memory == 0)
      mistake(path_, "device.memory", "is required unless device.kind is cpu");
    for (const auto& [name, link] :
         {std::pair{"links.node", &machine_.link}, {"links.fabric", &machine_.fabric}})
      if (link->shared < link->bandwidth)
        mistake(path_, std::string(name) + ".shared", "must not be less than bandwidth");
  }

  std::string path_;
  Machine machine_;
  std::vector<MachineSection> sections_;  ///< refer to machine_
  std::vector<Mistake> mistakes_;
  std::set<std::string> given_;
};

}  // namespace

Machine read_machine(const std::string& path) {
  return MachineReader(path).read();
}

std::string to_yaml(const Machine& machine) {
  Machine copy = machine;  // sections refer to members that may be changed
  const bool measured = machine.measured.has_value();
  std::string text;
  std::string heading;
  for (const MachineSection& section : sections_of(copy)) {
    if ((section.name == "measured" && !measured) ||
        (section.name == "links.fabric" && copy.fabric.bandwidth == 0))
      continue;
    const bool link = section.name.starts_with("links.");
    if (link && heading != "links") text += "links:\n";
    heading = link ? "links" : section.name;
    const std::string name = link ? "  " + section.name.substr(6) : section.name;
    const std::string indent = section.name.empty() ? "" : link ? "    " : "  ";
    if (!name.empty()) text += name + ":\n";
    for (const Entry& entry : section.entries)
      if (const std::string value = entry.text(); !value.empty())
        text += indent + entry.name + ": " + value + "\n";
  }
  return text;
}

}  // namespace gptq

#include "config/command_line.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <optional>

#include "base/error.h"
#include "config/key_value.h"
#include "config/nearest.h"
#include "config/version.h"
#include "config/yaml_reader.h"

namespace gptq {
namespace {

using Command = CommandLine::Command;

/// One subcommand: its name, what it is for, and an example that works after tools/quickstart.sh.
struct CommandRow {
  Command command;
  const char* name;
  const char* purpose;
  const char* example;
};

constexpr CommandRow kCommands[] = {
    {Command::plan, "plan", "Say what a job would do: grid, memory, disk, time; refuse what cannot fit",
     "gptq-hpc plan configs/quickstart.yaml --ranks 8"},
    {Command::quantize, "quantize", "Quantize a model",
     "mpirun -n 2 gptq-hpc quantize configs/quickstart.yaml --set quantization.bits=3"},
    {Command::eval, "eval", "Measure the perplexity of a source or quantized model",
     "gptq-hpc eval configs/quickstart.yaml --model .cache/quickstart/model"},
    {Command::inspect, "inspect", "Show what is in a model, a calibration file or a quantized model",
     "gptq-hpc inspect .cache/quickstart/calibration.h5"},
    {Command::verify, "verify", "Check a quantized model against its manifest and the loaders' contract",
     "gptq-hpc verify .cache/quickstart/output"},
};

/// The parser and where its values go.
class Interface {
 public:
  explicit Interface(CommandLine& line) : line_(line) {
    app_.require_subcommand(1);
    app_.add_flag("--version", show_version_, "Print the version and what it was built with");
    app_.add_flag("--reference", show_reference_, "Print every key of a job with its default and meaning");
    app_.footer("`gptq-hpc COMMAND --help` shows a command's options and an example.");
    for (const CommandRow& row : kCommands) add(row);
  }

  /// True if there is a command to run; otherwise `text` is to be printed and `exit_code` is set.
  bool parse(int argc, char** argv, std::string& text, int& exit_code) {
    exit_code = static_cast<int>(ExitCode::ok);
    try {
      if (wants_only_text(argc, argv, text)) return false;
      app_.parse(argc, argv);
      return true;
    } catch (const CLI::CallForHelp&) {
      text = app_.help();
    } catch (const CLI::ParseError& error) {
      exit_code = static_cast<int>(ExitCode::bad_usage);
      text = explain(error, argc, argv);
    }
    return false;
  }

 private:
  void add(const CommandRow& row) {
    CLI::App* command = app_.add_subcommand(row.name, row.purpose);
    command->footer(fmt::format("Example:\n  {}", row.example));
    command->callback([this, row] { line_.command = row.command; });
    const bool takes_path = row.command == Command::inspect || row.command == Command::verify;
    if (takes_path) {
      command->add_option("path", line_.path, "Directory or file to look at")->required()->type_name("PATH");
    } else {
      command->add_option("job", line_.job, "Job YAML (see configs/)")->required()->type_name("JOB.yaml");
      command->add_option("--set", line_.overrides, "Give a key of the job another value; may be repeated")
          ->allow_extra_args(false)
          ->type_name("KEY=VALUE");
    }
    if (row.command == Command::quantize) {
      command->add_flag("--overwrite", line_.overwrite,
                        "Replace an existing output that is not this job's own");
      command->add_flag(
          "--fresh", line_.fresh,
          "Start over instead of resuming; discarding a checkpoint or output needs --overwrite too");
      command
          ->add_option("--trace", line_.trace,
                       "Write a timeline of all ranks, to be opened in Perfetto or chrome://tracing")
          ->type_name("FILE");
    } else {
      command->add_option("--json", line_.json, "Also write the result to this file")->type_name("FILE");
    }
    if (row.command == Command::eval) {
      command->add_option("--model", line_.eval_model, "Model directory instead of eval.model")
          ->type_name("DIR");
      command->add_option("--data", line_.eval_data, "Files of tokens instead of eval.data")
          ->type_name("FILE");
    }
    if (row.command == Command::plan || row.command == Command::quantize) {
      command
          ->add_option("--machine", line_.machine,
                       "Forecast time by phase on this machine: a description's file, or its name in "
                       "configs/machines")
          ->type_name("FILE|NAME");
    }
    if (row.command == Command::plan) {
      add_plan_options(command);
      add_forecast_options(command);
    }
  }

  void add_plan_options(CLI::App* command) {
    command
        ->add_option("--ranks", line_.plan_ranks,
                     "Answer for so many ranks instead of the present ones (with --machine: of one node's)")
        ->check(CLI::Range(1, 1 << 20))
        ->type_name("N");
    command->add_option("--ranks-per-node", line_.plan_ranks_per_node, "Ranks that share a node's memory")
        ->check(CLI::Range(1, 1 << 20))
        ->type_name("N");
    command->add_option("--node-memory", line_.plan_node_memory, "Memory of a node instead of this machine's")
        ->check(CLI::PositiveNumber)
        ->type_name("GB");
    command->add_option("--disk-speed", line_.plan_disk_speed, "What all ranks together can write (1)")
        ->check(CLI::PositiveNumber)
        ->type_name("GB/s");
    const std::map<std::string, double> units{
        {"G", 1}, {"GB", 1}, {"GiB", 1.073741824}, {"T", 1000}, {"TB", 1000}};
    command
        ->add_option("--device-memory", line_.plan_device_memory,
                     "Answer for GPUs of so much memory instead of what is here; 0: for CPUs")
        ->transform(CLI::AsNumberWithUnit(units, CLI::AsNumberWithUnit::CASE_INSENSITIVE, "GB"))
        ->check(CLI::NonNegativeNumber)
        ->type_name("GB");
    command->add_option("--ranks-per-device", line_.plan_ranks_per_device, "Ranks that share a GPU (1)")
        ->check(CLI::Range(1, 1 << 10))
        ->type_name("N");
    command
        ->add_option("--device-rate", line_.plan_device_rate,
                     "Matrix products of that GPU, for an estimate of time")
        ->check(CLI::PositiveNumber)
        ->type_name("TFLOP/s");
  }

  /// What does nothing in some company is refused there, not passed over in silence.
  void add_forecast_options(CLI::App* command) {
    CLI::Option* const machine = command->get_option("--machine");
    for (const char* here :
         {"--node-memory", "--disk-speed", "--device-memory", "--ranks-per-device", "--device-rate"})
      machine->excludes(command->get_option(here));
    command->add_option("--grid", line_.plan_grid, "With --machine: this grid instead of the best")
        ->needs(machine)
        ->type_name("STAGESxREPLICAS");
    command
        ->add_option("--samples", line_.plan_samples,
                     "With --machine: so many samples of so many tokens instead of calibration.path")
        ->needs(machine)
        ->type_name("COUNTxTOKENS");
    CLI::Option* const scaling =
        command->add_option("--scaling", line_.plan_scaling, "With --machine: 1, 2, 4, ... ranks")
            ->needs(machine)
            ->excludes(command->get_option("--ranks"))
            ->excludes(command->get_option("--json"))
            ->type_name("FIRST..LAST");
    command->add_option("--csv", line_.plan_csv, "Where --scaling writes its curve")
        ->needs(scaling)
        ->type_name("FILE");
    CLI::Option* const measure =
        command
            ->add_option("--measure", line_.plan_measure,
                         "Measure this machine at the job's shapes (under mpirun, with as many ranks as will "
                         "run together) and describe it in this file")
            ->type_name("FILE");
    for (const char* there : {"--machine", "--ranks", "--ranks-per-node", "--json"})
      measure->excludes(command->get_option(there));
  }

  /// --version and --reference need no command; CLI11 would ask for one.
  static bool wants_only_text(int argc, char** argv, std::string& text) {
    const std::string first = argc > 1 ? argv[1] : "";
    if (first == "--version") text = fmt::format("gptq-hpc {}\n{}\n", version(), build_features());
    if (first == "--reference") text = reference_yaml();
    return !text.empty();
  }

  const CLI::App* chosen_command() const {
    const auto chosen = app_.get_subcommands();
    return chosen.empty() ? nullptr : chosen.front();
  }

  std::string explain(const CLI::ParseError& error, int argc, char** argv) const {
    const CLI::App* chosen = chosen_command();
    const std::string help =
        chosen == nullptr ? "gptq-hpc --help" : fmt::format("gptq-hpc {} --help", chosen->get_name());
    const std::string what = chosen == nullptr ? explain_command(argc, argv) : explain_option(error, *chosen);
    return fmt::format("{}\n`{}` shows what is possible\n", what, help);
  }

  std::string explain_command(int argc, char** argv) const {
    std::vector<std::string> names;
    for (const CommandRow& row : kCommands) names.push_back(row.name);
    if (argc < 2) return "a command is missing: plan, quantize, eval, inspect or verify";
    const std::string first = argv[1];
    if (first.rfind('-', 0) == 0) {
      return fmt::format("unknown option '{}' before the command{}", first,
                         nearest_hint("option", first, options_of(app_)));
    }
    return fmt::format("unknown command '{}'{}; valid: plan, quantize, eval, inspect, verify", first,
                       nearest_hint("command", first, names));
  }

  static std::string explain_option(const CLI::ParseError& error, const CLI::App& command) {
    const std::vector<std::string> unexpected = command.remaining();
    if (unexpected.empty()) return error.what();
    std::string text;
    for (const std::string& argument : unexpected)
      text += (text.empty() ? "" : "\n") + explain_extra(argument, command);
    return text;
  }

  static std::string explain_extra(const std::string& argument, const CLI::App& command) {
    if (argument.rfind('-', 0) == 0) {
      const std::string name = argument.substr(0, argument.find('='));
      return fmt::format("unknown option '{}' of {}{}", name, command.get_name(),
                         nearest_hint("option", name, options_of(command)));
    }
    const bool override_without_set = argument.find('=') != std::string::npos;
    return fmt::format("unexpected argument '{}' of {}{}", argument, command.get_name(),
                       override_without_set ? "; write --set before each KEY=VALUE" : "");
  }

  static std::vector<std::string> options_of(const CLI::App& app) {
    std::vector<std::string> names;
    for (const CLI::Option* option : app.get_options()) {
      for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
    }
    return names;
  }

  CommandLine& line_;
  CLI::App app_{"Quantizes large language models with GPTQ, as a batch job on one machine or a cluster.",
                "gptq-hpc"};
  bool show_version_ = false;
  bool show_reference_ = false;
};

}  // namespace

bool parse_command_line(int argc, char** argv, bool speak, CommandLine& result, int& exit_code) {
  result = {};
  Interface interface(result);
  std::string text;
  const bool run = interface.parse(argc, argv, text, exit_code);
  if (!text.empty() && speak) std::fputs(text.c_str(), exit_code == 0 ? stdout : stderr);
  return run;
}

std::vector<std::string> overrides_of(const CommandLine& line) {
  std::vector<std::string> overrides = line.overrides;
  if (line.overwrite) overrides.push_back("output.overwrite=true");
  if (!line.eval_model.empty()) overrides.push_back("eval.model=" + quote_yaml(line.eval_model));
  if (!line.eval_data.empty()) {
    std::string files;
    for (const std::string& file : line.eval_data) files += (files.empty() ? "" : ", ") + quote_yaml(file);
    overrides.push_back("eval.data=[" + files + "]");
  }
  return overrides;
}

}  // namespace gptq

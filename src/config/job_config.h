#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace gptq {

/// The job YAML as plain values. configs/reference.yaml documents every key; a key's name there is the
/// member's path here. Members marked [result] change the output's bytes, members marked [speed] never do;
/// [eval] marks those that change what `eval` measures and no output.
struct ModelSection {
  std::string path;  ///< [result] Hugging Face directory of the source model
};

struct CalibrationSection {
  std::string path;              ///< [result] HDF5 file made by tools/prepare_calibration.py
  std::int64_t num_samples = 0;  ///< [result] use the first so many; 0: all
  std::int64_t min_length = 0;   ///< [result] samples of fewer tokens are left out, before num_samples
  std::int64_t pad_token = -1;   ///< [result] id whose runs at a sample's ends are padding; -1: none
  std::string order = "as_is";   ///< [result] as_is | longest_first: of the samples that are used
  double held_out = 0;           ///< [result] part of the samples that no Hessian sees, in [0, 0.5]
  std::int64_t chunk_tokens =
      0;  ///< [result] of one product in the Hessian's sum: whole samples, about so many; 0: by the backend
};

/// One entry of quantization.dynamic: what holds for the layers whose full name the pattern matches.
struct ModuleRule {
  std::string pattern;  ///< as written: "REGEX", "+:REGEX", or "-:REGEX" for layers to keep as they are
  /// Key of the quantization section → value as YAML, for keys that may differ between layers.
  std::vector<std::pair<std::string, std::string>> values;

  bool keeps() const { return pattern.starts_with("-:"); }
  std::string regex() const { return keeps() || pattern.starts_with("+:") ? pattern.substr(2) : pattern; }
  bool operator==(const ModuleRule&) const = default;
};

struct QuantizationSection {
  std::string method = "gptq";            ///< [result] gptq | rtn
  int bits = 4;                           ///< [result] 2 to 8
  bool trits = false;                     ///< [result] three levels in 2 bits; bits is 2 then
  std::int64_t group_size = 128;          ///< [result] -1: one group; else >= 1
  bool per_channel = true;                ///< [result] false: one scale a tensor; group_size is -1 then
  bool sym = true;                        ///< [result]
  double damp_percent = 0.05;             ///< [result] of the mean of diag(H), in (0, 1)
  double damp_auto_increment = 0.01;      ///< [result] added while H is not positive definite; 0: never
  bool desc_act = false;                  ///< [result] activation order
  bool act_group_aware = true;            ///< [result] activation order within groups; not with desc_act
  bool static_groups = false;             ///< [result] scales from the original weights
  std::string scale_search = "weighted";  ///< [result] minmax | mse | weighted
  double mse_norm = 2.0;                  ///< [result] (0, 8]
  int mse_grid = 100;                     ///< [result] [2, 10000]
  double max_shrink = 0.8;                ///< [result] (0, 1)
  bool true_sequential = true;            ///< [result]
  std::string propagation = "quantized";  ///< [result] quantized | full_precision: what runs before a layer
  std::string quality = "default";        ///< [result] fast | default | best: the defaults of the keys below
  std::string token_weight = "none";      ///< [result] none | residual: what a token counts for in a Hessian
  int refine_sweeps = 0;                  ///< [result] of coordinate descent after the solve; 0: none
  bool refine_scales = true;              ///< [result] closed-form scales between those sweeps
  double correction_alpha = 0;            ///< [result] of the error-propagation correction, [0, 1]; 0: none
  std::string correction_target = "residual";  ///< [result] output | residual
  std::vector<std::string> correction_layers;  ///< [result] names or regexes; empty: all
  std::string rotation = "none";               ///< [result] none | hadamard
  std::vector<std::string>
      best_of;  ///< [result] further candidates, "key=value key=value"; rows keep the best
  std::vector<std::string> include;  ///< [result] module names or regexes; empty: every linear of the blocks
  std::vector<std::string> exclude;  ///< [result] module names or regexes kept as they are
  std::vector<std::string> modules_in_block_to_quantize;  ///< [result] names inside a block; empty: all
  std::int64_t num_layers = 0;                            ///< [result] the first so many blocks; 0: all
  bool lm_head = false;                                   ///< [result] quantize the head too
  int mlp_bits = 0;                                       ///< [result] of the MLP's layers; 0: as bits
  std::int64_t mlp_group_size = 0;                        ///< [result] of the MLP's layers; 0: as group_size
  std::map<std::string, int> module_bits;  ///< [result] module name → bits; wins over mlp_bits
  std::vector<ModuleRule> dynamic;         ///< [result] the first that matches a layer wins, over all above

  bool operator==(const QuantizationSection&) const = default;
};

/// Layers that are rounded to nearest instead of solved.
struct FallbackSection {
  std::int64_t min_tokens = 0;  ///< [result] layers whose Hessian saw fewer tokens; 0: never for that reason
  std::int64_t max_layers = 0;  ///< [speed] so many may fall back before the job fails; no byte depends on
                                ///< it, so a job that failed goes on with a larger one
};

struct ComputeSection {
  std::string backend = "auto";      ///< [result] auto | cpu | cuda
  std::string dtype = "auto";        ///< [result] auto | bf16 | fp32
  int threads = 0;                   ///< [speed] per rank; 0: cores / ranks of the node
  std::string activations = "auto";  ///< [speed] auto | device | host | disk: where they lie between steps
  std::string spill_path;            ///< [speed] directory for disk; empty: spill/ inside output.path
};

/// How the ranks share the work.
struct ParallelSection {
  int stages = 0;                ///< [speed] groups of ranks that hold the blocks in turn; 0: auto
  int replicas = 0;              ///< [speed] ranks of a stage, which share the samples; 0: auto
  std::string solvers = "auto";  ///< [speed] auto | world | stage: who shares a layer's rows
};

struct OutputSection {
  std::string path;                              ///< [speed] directory to make
  bool overwrite = false;                        ///< [speed] replace an output that is not this job's own
  std::string format = "gptq";                   ///< [result] gptq | dequantized
  std::string checkpoint_format = "gptq";        ///< [result] gptq | gptq_v2 | gptq_p
  std::string quantization_config = "gptq";      ///< [result] gptq | mixed_gptq: how config.json says it
  std::int64_t max_shard_bytes = 5'000'000'000;  ///< [result] of one safetensors file
};

struct CheckpointSection {
  bool enabled = true;                   ///< [speed] keep restart state on disk
  std::string path;                      ///< [speed] directory; empty: checkpoint/ inside output.path
  double interval = 600;                 ///< [speed] seconds between checkpoints; 0: at every safe point
  int keep = 2;                          ///< [speed] generations kept, >= 1
  std::string other_backend = "refuse";  ///< [speed] refuse | accept: go on from what another backend wrote
};

struct CommSection {
  double timeout = 1800;  ///< [speed] seconds a rank waits in a collective for the others, > 0
};

struct EvalSection {
  std::string model;              ///< [eval] directory; empty: output.path
  std::vector<std::string> data;  ///< [eval] HDF5 files of tokens, made like the calibration's
  std::int64_t num_samples = 0;   ///< [eval] 0: all
};

struct ReportSection {
  bool errors = false;  ///< [speed] squared errors of every layer, besides the relative ones
};

struct LogSection {
  std::string level = "info";     ///< [speed] debug | info | warn | error
  std::string progress = "auto";  ///< [speed] auto | bar | lines | none
};

struct JobConfig {
  ModelSection model;
  CalibrationSection calibration;
  QuantizationSection quantization;
  FallbackSection fallback;
  ComputeSection compute;
  OutputSection output;
  CheckpointSection checkpoint;
  CommSection comm;
  EvalSection eval;
  ReportSection report;
  LogSection log;
  ParallelSection parallel;
};

}  // namespace gptq

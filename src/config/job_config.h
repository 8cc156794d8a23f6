#pragma once

#include <cstdint>
#include <map>
#include <string>
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
  double held_out = 0;           ///< [result] part of the samples that no Hessian sees, in [0, 0.5]
  std::int64_t chunk_tokens =
      0;  ///< [result] of one product in the Hessian's sum: whole samples, about so many; 0: by the backend
};

struct QuantizationSection {
  std::string method = "gptq";            ///< [result] gptq | rtn
  int bits = 4;                           ///< [result] 2 | 3 | 4 | 8
  std::int64_t group_size = 128;          ///< [result] -1: one group; else >= 1
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
  std::string quality = "default";        ///< [result] fast | default | best: the defaults of the keys below
  std::string token_weight = "none";      ///< [result] none | residual: what a token counts for in a Hessian
  int refine_sweeps = 0;                  ///< [result] of coordinate descent after the solve; 0: none
  bool refine_scales = true;              ///< [result] closed-form scales between those sweeps
  double correction_alpha = 0;            ///< [result] of the error-propagation correction, [0, 1]; 0: none
  double correction_part = 1;             ///< [result] of the samples that it is found from, (0, 1]
  std::vector<std::string> correction_layers;  ///< [result] names or regexes; empty: all
  std::string rotation = "none";               ///< [result] none | hadamard
  std::vector<std::string>
      best_of;  ///< [result] further candidates, "key=value key=value"; rows keep the best
  std::vector<std::string> include;  ///< [result] module names or regexes; empty: every linear of the blocks
  std::vector<std::string> exclude;  ///< [result] module names or regexes kept as they are
  std::int64_t max_fallbacks = 0;  ///< [speed] layers that may fall back to RTN before the job fails; no byte
                                   ///< depends on it, so a job that failed goes on with a larger one

  bool operator==(const QuantizationSection&) const = default;
};

struct ComputeSection {
  std::string backend = "auto";      ///< [result] auto | cpu | cuda
  std::string dtype = "auto";        ///< [result] auto | bf16 | fp32
  int threads = 0;                   ///< [speed] per rank; 0: cores / ranks of the node
  std::string activations = "auto";  ///< [speed] auto | device | host | disk: where they lie between steps
  std::string spill_path;            ///< [speed] directory for disk; empty: spill/ inside output.path
  std::int64_t micro_batch = 0;      ///< [speed] samples in flight per rank; 0: as many as threads
};

struct OutputSection {
  std::string path;                              ///< [speed] directory to make
  bool overwrite = false;                        ///< [speed] replace an output that is not this job's own
  std::string format = "gptq";                   ///< [result] gptq | dequantized
  std::string checkpoint_format = "gptq";        ///< [result] gptq | gptq_v2
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

struct LogSection {
  std::string level = "info";     ///< [speed] debug | info | warn | error
  std::string progress = "auto";  ///< [speed] auto | bar | lines | none
};

struct JobConfig {
  ModelSection model;
  CalibrationSection calibration;
  QuantizationSection quantization;
  ComputeSection compute;
  OutputSection output;
  CheckpointSection checkpoint;
  CommSection comm;
  EvalSection eval;
  LogSection log;
};

}  // namespace gptq

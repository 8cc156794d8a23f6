#include "io/job_json.h"

namespace gptq {
namespace {

using nlohmann::ordered_json;

ordered_json to_json(const QuantizationSection& q) {
  ordered_json json;
  json["method"] = q.method;
  json["bits"] = q.bits;
  json["group_size"] = q.group_size;
  json["sym"] = q.sym;
  json["damp_percent"] = q.damp_percent;
  json["damp_auto_increment"] = q.damp_auto_increment;
  json["desc_act"] = q.desc_act;
  json["act_group_aware"] = q.act_group_aware;
  json["static_groups"] = q.static_groups;
  json["scale_search"] = q.scale_search;
  json["mse_norm"] = q.mse_norm;
  json["mse_grid"] = q.mse_grid;
  json["max_shrink"] = q.max_shrink;
  json["true_sequential"] = q.true_sequential;
  json["include"] = q.include;
  json["exclude"] = q.exclude;
  json["max_fallbacks"] = q.max_fallbacks;
  return json;
}

}  // namespace

ordered_json to_json(const JobConfig& job) {
  ordered_json json;
  json["model"]["path"] = job.model.path;
  json["calibration"]["path"] = job.calibration.path;
  json["calibration"]["num_samples"] = job.calibration.num_samples;
  json["calibration"]["chunk_tokens"] = job.calibration.chunk_tokens;
  json["quantization"] = to_json(job.quantization);
  json["compute"]["backend"] = job.compute.backend;
  json["compute"]["dtype"] = job.compute.dtype;
  json["compute"]["threads"] = job.compute.threads;
  json["compute"]["activations"] = job.compute.activations;
  json["compute"]["micro_batch"] = job.compute.micro_batch;
  json["output"]["path"] = job.output.path;
  json["output"]["overwrite"] = job.output.overwrite;
  json["output"]["format"] = job.output.format;
  json["output"]["checkpoint_format"] = job.output.checkpoint_format;
  json["output"]["max_shard_bytes"] = job.output.max_shard_bytes;
  json["eval"]["model"] = job.eval.model;
  json["eval"]["data"] = job.eval.data;
  json["eval"]["num_samples"] = job.eval.num_samples;
  json["log"]["level"] = job.log.level;
  json["log"]["progress"] = job.log.progress;
  return json;
}

}  // namespace gptq

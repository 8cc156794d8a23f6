#include "model/source_model.h"

#include "base/error.h"
#include "model/model_rotation.h"
#include "quant/recipe.h"

namespace gptq {

std::unique_ptr<ModelWeights> open_source_model(const JobConfig& job) {
  auto model = std::make_unique<ModelWeights>(job.model.path);
  model->check();
  if (job.quantization.rotation == "none") return model;
  GPTQ_EXPECT(job.quantization.rotation == "hadamard");
  const auto recipe = std::make_shared<Recipe>(job.quantization);
  model->rotate(
      {[recipe](const std::string& module) { return recipe->selects(module); }, job.output.format == "gptq"});
  return model;
}

}  // namespace gptq

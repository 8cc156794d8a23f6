#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/error.h"
#include "base/file.h"
#include "config/job_schema.h"
#include "io/report.h"
#include "quant/fallback.h"
#include "support/temp_directory.h"

namespace gptq::test {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

Report example() {
  Report report;
  report.version = "0.1.0";
  report.started = "2026-01-02T03:04:05Z";
  report.ranks = 2;
  report.threads = 3;
  report.backend = "cpu";
  report.device = "cpu: 3 threads";
  report.compute_dtype = "BF16";
  report.job.model.path = "models/tiny";
  report.job.quantization.exclude = {"mlp.down_proj", "a\"b"};
  report.samples = 64;
  report.tokens = 65536;
  report.layers.resize(2);
  report.layers[0].module = "model.layers.0.self_attn.q_proj";
  report.layers[0].relative_output_error = 0.01;
  report.layers[0].bits = 4;
  report.layers[1].module = "model.layers.0.mlp.down_proj";
  report.layers[1].relative_output_error = 0.03;
  report.layers[1].fallback = true;
  report.layers[1].fallback_reason = "not positive definite, \"even\" with damping";
  report.phases["load"] = {1.5, 0, 3e9, 0};
  report.phases["solve"] = {70, 140e12, 0, 4e12};
  report.phases["export"].seconds = 2.5;
  report.seconds = 3725;
  report.attempt_seconds = 84;
  report.host_memory = {1'000'000'000, 900'000'000};
  report.peak_memory_bytes = 1'500'000'000;
  report.source_bytes = 269'000'000;
  report.output_bytes = 110'000'000;
  report.fallbacks = 1;
  report.output = "out/tiny-w4";
  return report;
}

TEST(Report, JsonHoldsEverything) {
  const TempDirectory directory;
  write_report(example(), directory.path());
  const json report = json::parse(read_text_file(directory / "report.json"));
  EXPECT_EQ(report["summary"]["samples"], 64);
  EXPECT_EQ(report["summary"]["fallbacks"], 1);
  EXPECT_DOUBLE_EQ(report["summary"]["mean_relative_output_error"], 0.02);
  EXPECT_EQ(report["summary"]["peak_memory_bytes"], 1'500'000'000);
  EXPECT_EQ(report["job"]["model"]["path"], "models/tiny");
  EXPECT_EQ(report["job"]["quantization"]["group_size"], 128);
  EXPECT_EQ(report["job"]["quantization"]["exclude"][1], "a\"b");
  EXPECT_EQ(report["summary"]["backend"], "cpu");
  EXPECT_EQ(report["summary"]["device"], "cpu: 3 threads");
  EXPECT_EQ(report["attempts"], 1);
  EXPECT_DOUBLE_EQ(report["summary"]["quantization_seconds"], 80);
  EXPECT_DOUBLE_EQ(report["phase_seconds"]["load"], 1.5);
  EXPECT_DOUBLE_EQ(report["phases"]["load"]["seconds"], 1.5);
  EXPECT_DOUBLE_EQ(report["phases"]["load"]["bytes_per_second"], 2e9);
  EXPECT_FALSE(report["phases"]["load"].contains("flops"));
  EXPECT_DOUBLE_EQ(report["phases"]["solve"]["flops_per_second"], 2e12);
  EXPECT_DOUBLE_EQ(report["phases"]["solve"]["share_of_matrix_rate"], 0.5);
  EXPECT_EQ(report["memory"]["host"]["predicted_bytes"], 1'000'000'000);
  EXPECT_EQ(report["memory"]["host"]["actual_bytes"], 900'000'000);
  EXPECT_FALSE(report["memory"].contains("device")) << "a CPU has none of its own";
  ASSERT_EQ(report["layers"].size(), 2u);
  EXPECT_EQ(report["layers"][1]["fallback"], true);
  EXPECT_EQ(report["layers"][1]["fallback_reason"], example().layers[1].fallback_reason);
}

TEST(Report, ShowsEveryKeyOfTheJob) {
  const TempDirectory directory;
  Report report = example();
  report.job.quantization.module_bits = {{"down_proj", 8}};
  report.job.quantization.dynamic = {{"-:.*q", {}}, {"+:.*a", {{"bits", "3"}, {"scale_search", "mse"}}}};
  report.job.quantization.best_of = {"damp_percent=0.01"};
  write_report(report, directory.path());
  const json job = json::parse(read_text_file(directory / "report.json"))["job"];
  for (const Key& key : job_keys()) {
    ASSERT_TRUE(job.contains(key.section())) << key.path;
    EXPECT_TRUE(job[key.section()].contains(key.name())) << key.path;
  }
  EXPECT_EQ(job["quantization"]["module_bits"], json({{"down_proj", 8}}));
  EXPECT_EQ(job["quantization"]["dynamic"]["-:.*q"], json::object());
  EXPECT_EQ(job["quantization"]["dynamic"]["+:.*a"], json({{"bits", 3}, {"scale_search", "mse"}}));
  EXPECT_EQ(job["quantization"]["best_of"], json({"damp_percent=0.01"}));
  EXPECT_EQ(job["quantization"]["damp_percent"], 0.05);
  EXPECT_EQ(job["quantization"]["sym"], true);
  EXPECT_EQ(job["fallback"]["max_layers"], 0);
}

TEST(Report, CountsFallbacksByReason) {
  const TempDirectory directory;
  Report report = example();
  report.layers.resize(4);
  report.layers[2].fallback = report.layers[3].fallback = true;
  report.layers[2].fallback_reason = report.layers[3].fallback_reason = too_few_tokens(256);
  write_report(report, directory.path());
  const json reasons = json::parse(read_text_file(directory / "report.json"))["summary"]["fallback_reasons"];
  EXPECT_EQ(reasons.size(), 2u);
  EXPECT_EQ(reasons[too_few_tokens(256)], 2);
  EXPECT_EQ(reasons[report.layers[1].fallback_reason], 1);
  EXPECT_THAT(too_few_tokens(256), HasSubstr("fewer than 256 tokens"));
  EXPECT_TRUE(is_too_thin(255, 256));
  EXPECT_FALSE(is_too_thin(256, 256));
  EXPECT_FALSE(is_too_thin(0, 0)) << "0: never";
}

TEST(Report, CsvHasARowALayerAndQuotesWhatItMust) {
  const TempDirectory directory;
  write_report(example(), directory.path());
  std::istringstream csv(read_text_file(directory / "report.csv"));
  std::string line;
  std::getline(csv, line);
  EXPECT_EQ(
      line,
      "block,module,bits,group_size,samples,tokens,damp_percent,damping_steps,fallback,fallback_reason,loss,"
      "relative_weight_error,relative_output_error,variant,seconds");
  std::getline(csv, line);
  EXPECT_THAT(line, HasSubstr("0,model.layers.0.self_attn.q_proj,4,"));
  std::getline(csv, line);
  EXPECT_THAT(line, HasSubstr(R"(true,"not positive definite, ""even"" with damping",)"));
  EXPECT_FALSE(std::getline(csv, line));
}

TEST(Report, NanDoesNotBreakTheFile) {
  const TempDirectory directory;
  Report report = example();
  report.layers[0].loss = std::numeric_limits<double>::quiet_NaN();
  write_report(report, directory.path());
  EXPECT_TRUE(json::parse(read_text_file(directory / "report.json"))["layers"][0]["loss"].is_null());
}

TEST(Report, HeldOutFiguresAreNullWhereNothingIsHeldOut) {
  const TempDirectory directory;
  const auto written = [&](const Report& report) {
    write_report(report, directory.path());
    return json::parse(read_text_file(directory / "report.json")).at("held_out");
  };
  Report report = example();
  EXPECT_TRUE(written(report).is_null());
  EXPECT_THAT(summary_text(report), Not(HasSubstr("held out")));
  report.held_out = {4, 4096, 4092, 21.304, 19.0, 0.0123};
  EXPECT_EQ(written(report), json({{"samples", 4},
                                   {"tokens", 4096},
                                   {"predictions", 4092},
                                   {"perplexity", 21.304},
                                   {"source_perplexity", 19.0},
                                   {"relative_hidden_error", 0.0123}}));
  EXPECT_THAT(summary_text(report), HasSubstr("4 samples: perplexity 21.30, source 19.00, error of the last "
                                              "hidden states 1.23 %"));
  EXPECT_TRUE(report.held_out->is_finite());
  report.held_out->perplexity = std::numeric_limits<double>::infinity();
  EXPECT_FALSE(report.held_out->is_finite());
  EXPECT_TRUE(written(report)["perplexity"].is_null());
}

TEST(Report, HeldOutSamplesWithoutPredictionsHaveNoPerplexity) {
  const double none = std::numeric_limits<double>::quiet_NaN();
  const HeldOutFigures figures{2, 2, 0, none, none, 0.5};
  EXPECT_TRUE(figures.is_finite());
  EXPECT_EQ(held_out_text(figures),
            "no sample of two tokens to predict, error of the last hidden states 50.00 %");
}

TEST(Report, SummaryNamesWhatAPersonAsksFor) {
  const std::string text = summary_text(example());
  for (const char* part : {"64 samples, 65536 tokens", "2 quantized, 1 fell back", "269.0 MB -> 110.0 MB",
                           "1 h 2 min", "2 rank(s) x 3 thread(s)", "1.50 GB", "out/tiny-w4/report.json",
                           "model.layers.0.mlp.down_proj", "2.000 %"}) {
    EXPECT_THAT(text, HasSubstr(part));
  }
  EXPECT_THAT(text, HasSubstr("solve 1 min 10 s, export 2.5 s, load 1.5 s")) << "longest phase first";
}

TEST(Report, SummaryShowsLoadAndExportApart) {
  EXPECT_THAT(summary_text(example()), HasSubstr("1 min 20 s (load 1.5 s, export 2.5 s apart)"));
}

TEST(Report, SummaryComparesMemoryWithThePlan) {
  Report report = example();
  EXPECT_THAT(summary_text(report), HasSubstr("900.0 MB of 1.00 GB predicted"));
  EXPECT_THAT(summary_text(report), Not(HasSubstr("device peak")));
  report.device_memory = {20'000'000'000, 19'000'000'000};
  EXPECT_THAT(summary_text(report), HasSubstr("19.00 GB of 20.00 GB predicted"));
}

TEST(Report, PhaseTableHasRatesInTheOrderOfTheWork) {
  const std::vector<std::string> table = phase_table(example());
  ASSERT_EQ(table.size(), 5u);
  EXPECT_THAT(table[1], AllOf(HasSubstr("load"), HasSubstr(" 3 GB "), HasSubstr(" 2 GB/s")));
  EXPECT_THAT(table[2], AllOf(HasSubstr("solve"), HasSubstr("140 TFLOP "), HasSubstr("2 TFLOP/s"),
                              HasSubstr("50 %"), HasSubstr("83 %")));
  EXPECT_THAT(table[3], AllOf(HasSubstr("export"), Not(HasSubstr("FLOP")), Not(HasSubstr("B/s"))));
  EXPECT_THAT(table[4], AllOf(HasSubstr("other"), HasSubstr("10.00 s")));
}

TEST(Report, EmptyJobHasASummaryToo) {
  EXPECT_THAT(summary_text(Report{}), HasSubstr("no layer was quantized"));
}

TEST(Report, UnwritableDirectoryIsAnIoError) {
  const TempDirectory directory;
  EXPECT_THROW(write_report(example(), directory / "missing"), IoError);
}

}  // namespace
}  // namespace gptq::test

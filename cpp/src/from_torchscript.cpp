// A surrogate from a TorchScript file, by libtorch, on as many threads as the environment says.
//   from_torchscript --model model.ts --golden golden.csv
#include <ATen/Parallel.h>
#include <torch/script.h>

#include "program.hpp"

int main(int count, char** words) {
  return program::guarded([&] {
    std::vector<std::string> known = program::common;
    known.insert(known.end(), {"--model", "--inputs", "--outputs"});
    const program::Options options = program::read_options(count, words, known);
    const auto inputs = static_cast<std::size_t>(program::number(options, "--inputs", 7)), outputs = static_cast<std::size_t>(program::number(options, "--outputs", 4));
    const c10::InferenceMode no_gradients;
    torch::jit::Module surrogate = torch::jit::load(program::get(options, "--model", "model.ts"));
    surrogate.eval();
    const auto call = [&](const float* in, float* out, std::size_t rows) {
      const auto state = torch::from_blob(const_cast<float*>(in), {static_cast<long>(rows), static_cast<long>(inputs)}, torch::kFloat32);
      const auto answer = surrogate.forward({state}).toTensor().contiguous();
      if (static_cast<std::size_t>(answer.numel()) != rows * outputs) throw std::runtime_error("the model gives another number of outputs; use --outputs");
      std::copy_n(answer.data_ptr<float>(), rows * outputs, out);
    };
    const std::string detail = "\"threads\": " + std::to_string(at::get_num_threads());
    return program::run<float>("from_torchscript", detail, inputs, outputs, call, options);
  });
}

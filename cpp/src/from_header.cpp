// A surrogate from its C++ header: nothing is linked, nothing is loaded. MODEL_HEADER and MODEL_NAMESPACE come from CMake.
// Names and shapes are those that the header says `about` itself.
//   from_header --golden golden.csv
//   from_header --states states.csv --time 1000000
#include MODEL_HEADER

#include "card.hpp"
#include "program.hpp"

namespace model = MODEL_NAMESPACE;

int main(int count, char** words) {
  return program::guarded([&] {
    const card::Card about = card::read_text(model::about);
    const program::Columns columns{card::Card::columns(about.inputs), card::Card::columns(about.outputs), about.tolerance};
    if (columns.in.size() != model::inputs || columns.out.size() != model::outputs) throw std::runtime_error("the header does not fit what it says of itself; export it again");
    const auto call = [](const float* in, float* out, std::size_t rows) {
      for (std::size_t r = 0; r < rows; ++r) model::evaluate<float>(in + r * model::inputs, out + r * model::outputs);
    };
    const std::string detail = "\"constant_bytes\": " + std::to_string(model::constant_bytes);
    return program::run<float>("from_header", detail, columns, call, program::read_options(count, words, program::common));
  });
}

// Rows of a column-major matrix are not contiguous.
#include <terse/core/view.hpp>

void wrong(Eigen::MatrixXf& m) { (void)terse::view(m); }

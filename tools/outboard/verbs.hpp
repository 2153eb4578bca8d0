#pragma once

#include <tools/outboard/plan.hpp>
#include <tools/outboard/verb.hpp>

namespace outboard::command {

// The verbs of `outboard`, each in the folder of its name. A verb's options live as long as its function in the
// plan.
void add_serve(const Verb& parent, Plan& plan);
void add_show(const Verb& parent, Plan& plan);
void add_lspci(const Verb& parent, Plan& plan);
void add_blk(const Verb& parent, Plan& plan);
void add_example(const Verb& parent, Plan& plan);
void add_edu(const Verb& parent, Plan& plan);
void add_new(const Verb& parent, Plan& plan);
void add_reset(const Verb& parent, Plan& plan);
void add_migrate(const Verb& parent, Plan& plan);
void add_explain_config(const Verb& parent, Plan& plan);
void add_pci(const Verb& parent, Plan& plan);
void add_vduse(const Verb& parent, Plan& plan);
void add_doctor(const Verb& parent, Plan& plan);

}  // namespace outboard::command

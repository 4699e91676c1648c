#include "lua/stock.h"

#include "base/memory.h"

struct bq_stock {
  bq_stock_options options;
  bq_timer *timer;              // owned; set while something waits
  bq_generation *of;            // retained; whose states are kept; NULL: nobody's
  unsigned era;                 // of what is kept; from 1
  bq_vm *waiting[BQ_STOCK_MAX]; // owned; the last one given is the first one taken
  size_t count;                 // of these
  size_t least;                 // the smallest count since the timer last ran
  size_t images;                // states with a copy, lent or waiting
};

static void free_waiting(bq_stock *stock, size_t many) {
  for (; many > 0; many--) {
    bq_vm_free(stock->waiting[--stock->count]);
    stock->images--;
  }
}

static void on_look(void *arg) {
  bq_stock *stock = arg;
  free_waiting(stock, (stock->least + 1) / 2);
  stock->least = stock->count;
  if (stock->count > 0) bq_timer_set(stock->timer, stock->options.look_ms);
}

int bq_stock_new(bq_stock **out, const bq_stock_options *options, bq_error *err) {
  *out = NULL;
  bq_stock *stock = bq_alloc(sizeof *stock);
  if (stock == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for the stock of Lua states");
  stock->options = *options;
  if (stock->options.look_ms == 0) stock->options.look_ms = BQ_STOCK_LOOK_MS;
  stock->era = 1;
  int result = bq_timer_new(&stock->timer, options->loop, on_look, stock, err);
  if (result < 0) bq_stock_free(stock);
  else *out = stock;
  return result;
}

void bq_stock_free(bq_stock *stock) {
  if (stock == NULL) return;
  free_waiting(stock, stock->count);
  bq_generation_release(stock->of);
  bq_timer_free(stock->timer);
  bq_free(stock);
}

void bq_stock_get_counts(const bq_stock *stock, bq_stock_counts *out) {
  *out = (bq_stock_counts){.waiting = stock->count, .images = stock->images};
}

void bq_stock_renew(bq_stock *stock, bq_generation *generation) {
  free_waiting(stock, stock->count);
  stock->least = 0;
  stock->era++;
  bq_generation_release(stock->of);
  stock->of = generation != NULL ? bq_generation_retain(generation) : NULL;
}

static int make(bq_vm **out, bq_stock *stock, const bq_vm_options *options, bq_generation *generation, bq_error *err) {
  bq_vm_options lent = *options;
  lent.lent = stock->era;
  bq_vm *vm;
  int result = bq_script_vm_new(&vm, &lent, generation, stock->options.modules, stock->options.services, err);
  if (result < 0) return result;
  lua_State *L = bq_vm_state(vm);
  lua_pushcfunction(L, stock->options.prepare);
  result = bq_vm_call(vm, L, 0, 0, err);
  if (result < 0) {
    bq_vm_free(vm);
    return result;
  }
  bq_vm_seal(vm);
  // Without a copy, for want of memory say, it serves one build.
  if (generation == stock->of && stock->images < BQ_STOCK_MAX && bq_vm_make_image(vm)) stock->images++;
  *out = vm;
  return 0;
}

int bq_stock_take(bq_vm **out, bq_stock *stock, const bq_vm_options *options, bq_generation *generation,
                  bq_error *err) {
  *out = NULL;
  if (generation != stock->of || stock->count == 0) return make(out, stock, options, generation, err);
  *out = stock->waiting[--stock->count];
  if (stock->count < stock->least) stock->least = stock->count;
  bq_vm_lend_again(*out, options);
  return 0;
}

void bq_stock_give(bq_stock *stock, bq_vm *vm) {
  if (vm == NULL) return;
  if (bq_vm_lent(vm) == stock->era && bq_vm_renew(vm)) {
    stock->waiting[stock->count++] = vm;
    if (stock->count > 1) return;
    stock->least = 0;
    bq_timer_set(stock->timer, stock->options.look_ms);
    return;
  }
  if (bq_vm_has_image(vm)) stock->images--;
  bq_vm_free(vm);
}

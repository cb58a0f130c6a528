-- The books of all gateways: what ledger.py keeps in memory, in Redis, with the same rules.
--
-- KEYS[1]   prefix of every key here; one hash slot, as it is a hash tag
-- ARGV[1]   msgpack of {gateway, lease_ms, now_s or 0, month, next_month_s, sequence,
--           changes, holds, reserves, birth}
-- Returns   msgpack of {now_s, gateways alive, whether this one's lease had lapsed, results, birth}
--           where birth is the first that was ever given: another one means that all was lost
--
-- A book is a hash: r t (requests and tokens in the window), o n (oldest and newest slot), sSLOT
-- ("requests,tokens"), D dw dc and M mw mc (day and month: number, weighted tokens, cost), and what
-- each gateway holds: GATEWAY:c (running requests), GATEWAY:w, GATEWAY:m (reserved tokens, cost).
-- What a gateway holds counts while its lease runs.

local SLOTS_PER_S, WINDOW_SLOTS, BOOK_S, ROUNDING = 2, 121, 32 * 86400, 1 + 1e-9

local prefix = KEYS[1]
local call = cmsgpack.unpack(ARGV[1])
local gateway, lease_ms, now = call[1], call[2], call[3]
local month, next_month_s, sequence = call[4], call[5], call[6]
local changes, holds, reserves = call[7], call[8], call[9]

if now == 0 then
  local time = redis.call('TIME')
  now = tonumber(time[1]) + tonumber(time[2]) / 1e6
end
if now >= next_month_s then month = month + 1 end
local day, slot_now = math.floor(now / 86400), math.floor(now * SLOTS_PER_S)
local oldest = slot_now - WINDOW_SLOTS + 1
local now_ms = math.floor(now * 1000)

local function text(number) return string.format('%.17g', number) end

-- Leases -------------------------------------------------------------------------------------

local leases, epochs, sequences = prefix .. ':leases', prefix .. ':epoch', prefix .. ':sequences'
local score = redis.call('ZSCORE', leases, gateway)
local lapsed = not score or tonumber(score) < now_ms
local dead = redis.call('ZRANGEBYSCORE', leases, '-inf', '(' .. now_ms)
if #dead > 0 then
  redis.call('ZREM', leases, unpack(dead))
  redis.call('INCR', epochs)
  for _, each in ipairs(dead) do
    if each ~= gateway then redis.call('HDEL', sequences, each) end
  end
end
redis.call('ZADD', leases, now_ms + lease_ms, gateway)
local alive = redis.call('ZRANGE', leases, 0, -1)
local epoch = redis.call('GET', epochs) or '0'
local birth = redis.call('GET', prefix .. ':birth')
if not birth then
  birth = call[10]
  redis.call('SET', prefix .. ':birth', birth)
end

-- Books --------------------------------------------------------------------------------------

local FIELDS = { 'e', 'r', 't', 'o', 'n', 'D', 'dw', 'dc', 'M', 'mw', 'mc' }
for _, each in ipairs(alive) do
  FIELDS[#FIELDS + 1] = each .. ':c'
  FIELDS[#FIELDS + 1] = each .. ':w'
  FIELDS[#FIELDS + 1] = each .. ':m'
end

local function slots_of(book, first, last)
  local names = {}
  for slot = first, last do names[#names + 1] = 's' .. slot end
  if #names == 0 then return names, {} end
  return names, redis.call('HMGET', book.key, unpack(names))
end

local function forget_dead(key)
  local living = {}
  for _, each in ipairs(alive) do living[each] = true end
  for _, name in ipairs(redis.call('HKEYS', key)) do
    local owner = string.match(name, '^(.+):[cwm]$')
    if owner and not living[owner] then redis.call('HDEL', key, name) end
  end
end

local books = {}

local function open(name)
  local book = books[name]
  if book then return book end
  local key = prefix .. ':book:' .. name
  local v = redis.call('HMGET', key, unpack(FIELDS))
  for i = 2, #v do v[i] = tonumber(v[i] or 0) end
  book = { key = key, r = v[2], t = v[3], o = v[4], n = v[5], D = v[6], dw = v[7], dc = v[8],
    M = v[9], mw = v[10], mc = v[11], c = 0, w = 0, m = 0, slots = {} }
  for i, each in ipairs(alive) do
    local at = 9 + 3 * i
    book.c, book.w, book.m = book.c + v[at], book.w + v[at + 1], book.m + v[at + 2]
    if each == gateway then book.own = { c = v[at], w = v[at + 1], m = v[at + 2] } end
  end
  if v[1] ~= epoch and v[1] then forget_dead(key) end
  if book.n == 0 then
    book.o = oldest
  elseif book.o < oldest then
    local names, values = slots_of(book, book.o, math.min(book.n, oldest - 1))
    for i, value in ipairs(values) do
      if value then
        local requests, tokens = string.match(value, '(.+),(.+)')
        book.r, book.t = book.r - tonumber(requests), book.t - tonumber(tokens)
      end
    end
    if #names > 0 then redis.call('HDEL', key, unpack(names)) end
    book.o, book.changed = oldest, true
    if book.n < oldest then book.n = 0 end
  end
  if book.D ~= day then book.D, book.dw, book.dc = day, 0, 0 end
  if book.M ~= month then book.M, book.mw, book.mc = month, 0, 0 end
  books[name] = book
  return book
end

local function hold(book, c, w, m)
  local own = book.own
  local old_c, old_w, old_m = own.c, own.w, own.m
  own.c, own.w, own.m = math.max(0, c), math.max(0, w), math.max(0, m)
  book.c, book.w, book.m = book.c + own.c - old_c, book.w + own.w - old_w, book.m + own.m - old_m
end

local function add(book, slot, requests, tokens, c, w, m, used, cost)
  if requests ~= 0 or tokens ~= 0 then
    slot = math.min(slot, slot_now)
    if slot < oldest then
      slot, requests, tokens = slot_now, math.max(0, requests), math.max(0, tokens)
    end
    local entry = book.slots[slot]
    if not entry then
      local value = redis.call('HGET', book.key, 's' .. slot)
      local old_requests, old_tokens = string.match(value or '0,0', '(.+),(.+)')
      entry = { tonumber(old_requests), tonumber(old_tokens) }
      book.slots[slot] = entry
    end
    entry[1], entry[2] = entry[1] + requests, entry[2] + tokens
    book.r, book.t, book.n = book.r + requests, book.t + tokens, math.max(book.n, slot)
  end
  hold(book, book.own.c + c, book.own.w + w, book.own.m + m)
  book.dw, book.dc, book.mw, book.mc = book.dw + used, book.dc + cost, book.mw + used, book.mc + cost
  book.changed = true
end

local function close(book)
  if not book.changed then return end
  local own = book.own
  local values = {
    'e', epoch, 'r', text(book.r), 't', text(book.t), 'o', text(book.o), 'n', text(book.n),
    'D', text(book.D), 'dw', text(book.dw), 'dc', text(book.dc),
    'M', text(book.M), 'mw', text(book.mw), 'mc', text(book.mc),
    gateway .. ':c', text(own.c), gateway .. ':w', text(own.w), gateway .. ':m', text(own.m) }
  for slot, entry in pairs(book.slots) do
    values[#values + 1] = 's' .. slot
    values[#values + 1] = text(entry[1]) .. ',' .. text(entry[2])
  end
  redis.call('HSET', book.key, unpack(values))
  redis.call('EXPIRE', book.key, BOOK_S)
end

local function uses(book)
  return { book.r, book.t, book.c, book.dw + book.w, book.mw + book.w, book.dc + book.m,
    book.mc + book.m, book.n, book.w, book.m }
end

-- Reserving ----------------------------------------------------------------------------------

local function wait_s(book, kind, limit, asked)
  if kind > 2 then return -1 end
  local used = kind == 1 and book.r or book.t
  asked = math.min(asked, limit)
  local _, values = slots_of(book, book.o, book.n)
  for i, value in ipairs(values) do
    local slot = book.o + i - 1
    local entry = book.slots[slot]
    if not entry and value then
      local requests, tokens = string.match(value, '(.+),(.+)')
      entry = { tonumber(requests), tonumber(tokens) }
    end
    if entry then
      used = used - entry[kind]
      if used + asked <= limit then
        return math.max(0, (slot + WINDOW_SLOTS) / SLOTS_PER_S - now)
      end
    end
  end
  return WINDOW_SLOTS / SLOTS_PER_S
end

local function reserve(asked)
  local requests, tokens, weighted, cost, subjects = unpack(asked)
  local asks = { requests, tokens, requests, weighted, weighted, cost, cost }
  local found, told, refused = {}, {}, nil
  for i, subject in ipairs(subjects) do
    local book = open(subject[1])
    found[i], told[i] = book, uses(book)
    for kind = 1, 7 do
      local limit, ask = subject[kind + 1], asks[kind]
      if not refused and limit >= 0 and ask > 0 then
        if limit == 0 or told[i][kind] + math.min(ask, limit) > limit * ROUNDING then
          refused = { i, kind, wait_s(book, kind, limit, ask) }
        end
      end
    end
  end
  if not refused then
    for i, book in ipairs(found) do
      add(book, slot_now, requests, tokens, requests, weighted, cost, 0, 0)
      told[i] = uses(book)
    end
  end
  return { refused or false, told }
end

-- The call -----------------------------------------------------------------------------------

for _, each in ipairs(holds) do
  local book = open(each[1])
  hold(book, each[2], each[3], each[4])
  if each[5] == day then
    book.dw, book.dc = math.max(book.dw, each[6]), math.max(book.dc, each[7])
  end
  if each[8] == month then
    book.mw, book.mc = math.max(book.mw, each[9]), math.max(book.mc, each[10])
  end
  book.changed = true
end
if #changes > 0 and sequence > tonumber(redis.call('HGET', sequences, gateway) or 0) then
  for _, each in ipairs(changes) do
    local name = table.remove(each, 1)
    add(open(name), unpack(each))
  end
  redis.call('HSET', sequences, gateway, sequence)
end
local results = {}
for i, asked in ipairs(reserves) do results[i] = reserve(asked) end
for _, book in pairs(books) do close(book) end
return cmsgpack.pack({ now, #alive, lapsed, results, birth })

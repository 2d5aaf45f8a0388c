-- Limits from the configuration (law 12): ARGV = 2 values a set: name, limit ('' removes the file's word on it).
-- A limit is applied only when it differs from what the file said last, so that a `capacity set` survives restarts.
-- What the file once said and no longer names is open again.
local applied, named = {}, {}
for i = 1, #ARGV, 2 do named[ARGV[i]] = true end
for _, name in ipairs(call('HKEYS', P .. 'Capacity:file')) do
  if not named[name] then
    call('HDEL', P .. 'Capacity:file', name)
    call('HDEL', P .. 'Capacity', name)
    applied[#applied + 1] = name
  end
end
for i = 1, #ARGV, 2 do
  local name, limit = ARGV[i], ARGV[i + 1]
  local had = call('HGET', P .. 'Capacity:file', name)
  if limit == '' then
    if had then call('HDEL', P .. 'Capacity:file', name); call('HDEL', P .. 'Capacity', name) end
  elseif had ~= limit then
    call('HSET', P .. 'Capacity:file', name, limit)
    call('HSET', P .. 'Capacity', name, limit)
    applied[#applied + 1] = name
  end
end
call('RPUSH', P .. 'Result_Queue', '')
return applied

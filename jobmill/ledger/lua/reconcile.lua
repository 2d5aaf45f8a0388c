-- A set against the live records: ARGV = set, cursor. Members whose record does not hold it leave; some 250 a call.
-- Answer: {next cursor, how many were removed, their ids, then the ids of those that are granted, …}.
local set = ARGV[1]
local page = call('SSCAN', P .. set, ARGV[2], 'COUNT', 250)
local gone, granted = {}, {}
for _, id in ipairs(page[2]) do
  local v = call('HMGET', P .. 'Job:' .. id, 'holds', 'state')
  if not (' ' .. (v[1] or '') .. ' '):find(' ' .. set .. ' ', 1, true) then
    call('SREM', P .. set, id)
    gone[#gone + 1] = id
  elseif v[2] == 'granted' then
    granted[#granted + 1] = id
  end
end
if #gone > 0 then call('RPUSH', P .. 'Result_Queue', '') end
local answer = { page[1], tostring(#gone) }
for _, id in ipairs(gone) do answer[#answer + 1] = id end
for _, id in ipairs(granted) do answer[#answer + 1] = id end
return answer

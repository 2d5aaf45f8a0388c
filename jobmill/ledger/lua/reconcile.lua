-- A set against the live records: ARGV = set, cursor. Members whose record does not hold it leave; at most 250 a call.
-- Answer: {next cursor, id removed, …}.
local set = ARGV[1]
local page = call('SSCAN', P .. set, ARGV[2], 'COUNT', 250)
local answer = { page[1] }
for _, id in ipairs(page[2]) do
  local holds = call('HGET', P .. 'Job:' .. id, 'holds') or ''
  if not (' ' .. holds .. ' '):find(' ' .. set .. ' ', 1, true) then
    call('SREM', P .. set, id)
    answer[#answer + 1] = id
  end
end
if #answer > 1 then call('RPUSH', P .. 'Result_Queue', '') end
return answer
